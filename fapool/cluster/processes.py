"""Operating system processes: alive or not, how they ended, ending them."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence

import psutil
from ipyparallel.cluster.launcher import LocalProcessLauncher


def lives(process: psutil.Process) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def how_it_ended(launcher: LocalProcessLauncher) -> str:
    """In words, for a launched process that is gone."""
    try:
        # The launcher's own thread reaps the process; only then is the code to be had.
        asyncio.run(launcher.join(timeout=1))
        code = launcher.process.wait(0)
    except (TimeoutError, psutil.Error):
        code = None
    if code is None:
        return "died"
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"ended with exit code {int(code)}"


def end(processes: Sequence[psutil.Process]) -> None:
    """Kill processes and all that they started; returns when they are gone, 5 s at most."""
    family = []
    for process in processes:
        try:
            family += [*process.children(recursive=True), process]
        except psutil.NoSuchProcess:
            continue
    for process in family:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(family, timeout=5)
