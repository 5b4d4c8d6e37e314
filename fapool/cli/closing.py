"""The end of a headless run that failed: its folder closed once, whoever was killed.

A launcher answers the death of one rank with SIGTERM to the others, which may sit in a message or
on a device for good. So a thread waits for that signal, or for the launcher's own death, beside
the rank. The lowest rank that is left on the host of rank 0 closes the folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import psutil

from fapool.errors import StoreError
from fapool.store import RunFolder

NOTES_S = 2.0
"""How long a rank waits for word of the one that failed first."""

LAUNCHER_S = 1.0
"""How often it looks whether its launcher is still there."""


class Closing:
    """Watches over one rank of a run from here to `done`; for the process's main thread."""

    def __init__(self, folder: RunFolder, rank: int, world: int) -> None:
        self._folder, self._rank, self._world = folder, rank, world
        self._closing, self._closed = threading.Lock(), False
        self._launcher = os.getppid()
        self._ended = threading.Event()
        self._woken, self._wakes = socket.socketpair()
        self._woken.settimeout(LAUNCHER_S)
        self._wakes.setblocking(False)
        # The byte is written even while the main thread is inside a C call.
        self._fd = signal.set_wakeup_fd(self._wakes.fileno(), warn_on_full_buffer=False)
        self._handler = signal.signal(signal.SIGTERM, lambda *_: None)
        threading.Thread(target=self._watch, name="closing", daemon=True).start()

    def done(self) -> None:
        """The run has ended as it should; signals mean again what they meant before."""
        self._ended.set()
        signal.set_wakeup_fd(self._fd)
        signal.signal(signal.SIGTERM, self._handler)
        self._wakes.close()  # ends the thread

    def fail(self, reason: str) -> None:
        """Close the folder as failed; returns once that is done, also if it began elsewhere."""
        with self._closing:
            if not self._closed:
                self._close(reason)
            self._closed = True

    def _close(self, reason: str) -> None:
        """Name the rank that was killed, or the first that raised."""
        time.sleep(NOTES_S)
        path, ranks = self._folder.path, range(self._world)
        killed = [rank for rank in ranks if was_killed(path, rank)]
        left = [rank for rank in ranks if is_here(path, rank) and rank not in killed]
        if self._rank != min(left, default=self._rank):
            return
        rank, why = self._folder.first_failure() or (self._rank, reason)
        if killed:
            rank, why = killed[0], "was killed"
        with contextlib.suppress(OSError, StoreError):  # another was quicker, or the disk is full
            run = self._folder.fail(rank=rank, reason=why, log_tail=self._folder.log_tail(rank))
            print(f"failed: rank {rank} {why}\n{run.path}", file=sys.stderr, flush=True)

    def _watch(self) -> None:
        reason = ""
        while not reason and not self._ended.is_set():
            try:
                if signal.SIGTERM in self._woken.recv(64):
                    reason = "was ended by SIGTERM"
            except TimeoutError:
                if os.getppid() != self._launcher:
                    reason = "lost its launcher"
        self._woken.close()
        if reason and not self._ended.is_set():
            self.fail(reason)
            os._exit(128 + signal.SIGTERM)


def is_here(path: Path, rank: int) -> bool:
    """Whether a rank was born on this host."""
    return (_born(path, rank) or {}).get("host") == socket.gethostname()


def was_killed(path: Path, rank: int) -> bool:
    """Whether a rank of this host is gone without a word."""
    if not is_here(path, rank) or (path / f"ranks/{rank}.failure.json").exists():
        return False
    try:
        return psutil.Process(_born(path, rank)["pid"]).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _born(path: Path, rank: int) -> dict | None:
    born = path / f"ranks/{rank}.born.json"
    return json.loads(born.read_bytes()) if born.exists() else None
