"""ipyparallel's controller, its engines as processes, and the client. Knows nothing of ranks.

All that they write lies in a temporary folder of their own, `home`; they listen on the loopback
interface only, on ports of the system's choice, and are tied to this process (`tether`).
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ipyparallel
from ipyparallel.cluster.launcher import LocalEngineLauncher
from traitlets.config import Config

import fapool
from fapool.cluster import tether
from fapool.cluster.processes import end, lives
from fapool.errors import FapoolError

POLL_S = 0.1


class Hub:
    """A running controller; ends with `close`."""

    def __init__(self, *, grace_s: float) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="fapool-"))
        (self.home / "output").mkdir()
        tether.take(self.home)
        self._client: ipyparallel.Client | None = None
        self._seen: set[int] = set()
        self._cluster = ipyparallel.Cluster(
            profile_dir=str(self.home / "profile"),
            controller_ip="127.0.0.1",
            controller_location="127.0.0.1",
            load_profile=False,
            shutdown_atexit=False,
            parent=None,
            config=self._config(grace_s),
            log=logging.getLogger("fapool.cluster.ipyparallel"),
        )
        try:
            self._do("start_controller")
        except BaseException:
            shutil.rmtree(self.home, ignore_errors=True)
            raise
        self._processes = [self._cluster.controller.process]

    @property
    def lives(self) -> bool:
        """Whether the controller does."""
        return lives(self._processes[0])

    @property
    def client(self) -> ipyparallel.Client:
        """Connected once engines were started."""
        assert self._client is not None
        return self._client

    def spawn(
        self, count: int, deadline: float, give_up: Callable[[], bool]
    ) -> tuple[list[int], dict[int, LocalEngineLauncher]]:
        """Start engines: (their new ids, launchers by pid). `deadline`: of the monotonic clock.

        Raises:
            FapoolError: one ended, they were late, or `give_up` said so.
        """
        name = self._do("start_engines", n=count, environment=self._environment())
        launchers = {each.pid: each for each in self._cluster.engines[name].launchers.values()}
        self._processes += [launcher.process for launcher in launchers.values()]
        if self._client is None:
            self._client = self._cluster.connect_client_sync(ipython_dir=str(self.home / "ipython"))
        while len(new := sorted(set(self._client.ids) - self._seen)) < count:
            dead = [pid for pid, launcher in launchers.items() if not lives(launcher.process)]
            if dead or time.monotonic() > deadline or give_up():
                why = "ended while it started" if dead else "did not come up in time"
                tails = [self.printed(pid)[-2000:] for pid in dead or launchers]
                raise FapoolError("\n".join([f"a rank {why}; last lines:", *tails]))
            time.sleep(POLL_S)
        self._seen |= set(new)
        return new, launchers

    def printed(self, pid: int) -> str:
        """All that a process printed."""
        path = tether.output(self.home, pid)
        return path.read_text(errors="replace") if path.exists() else ""

    def close(self) -> None:
        """End all processes and remove what they wrote."""
        if self._client is not None:
            self._client.close(linger=False)
        end(self._processes)
        shutil.rmtree(self.home, ignore_errors=True)

    def _do(self, act: str, **arguments: Any) -> Any:
        """Call an asynchronous method of the cluster and wait; Ctrl-C leaves no task behind."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(getattr(self._cluster, act)(**arguments))
        return getattr(self._cluster, f"{act}_sync")(**arguments)  # in a cell: on its own thread

    def _config(self, grace_s: float) -> Config:
        start = [sys.executable, "-P", tether.__file__, str(self.home), str(grace_s)]
        config = Config()
        config.LocalControllerLauncher.controller_cmd = [*start, "controller"]
        config.LocalControllerLauncher.environment = self._environment()
        config.LocalEngineSetLauncher.engine_cmd = [*start, "engine"]
        # A nanny is one more process an engine, to notice its death; here that is a child's.
        # Its stderr is what a user reads when a rank dies: no colours, no chatter.
        config.LocalEngineSetLauncher.engine_args = [
            "--IPEngine.enable_nanny=False",
            "--IPEngine.log_level=30",
            "--InteractiveShell.colors=NoColor",
        ]
        return config

    def _environment(self) -> dict[str, str]:
        root = str(Path(fapool.__file__).resolve().parent.parent)
        paths = [root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        return {
            "OMP_NUM_THREADS": "1",
            "KINETO_LOG_LEVEL": "6",
            "IPYTHONDIR": str(self.home / "ipython"),
            "PYTHONPATH": os.pathsep.join(paths),
        }
