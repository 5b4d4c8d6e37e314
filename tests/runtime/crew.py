"""Rank processes that stay warm over many tests, and what can be asked of them.

parent: Crew.ask(job, ...) -> what `job` returned on every rank        child: tests.runtime.jobs
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import torch
import torch.distributed as dist

from tests.processes import ROOT, python_path

PATIENCE_S = 100


class Crew:
    """`size` processes that run one job after the other, all the same one at a time."""

    def __init__(self, size: int, folder: Path) -> None:
        self.size, self._asked = size, 0
        self._store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": python_path()}
        self._logs = [folder / f"rank{rank}.txt" for rank in range(size)]
        self._processes = []
        for rank, log in enumerate(self._logs):
            command = [sys.executable, "-m", "tests.runtime.jobs", str(rank), str(self._store.port)]
            with log.open("w") as lines:
                self._processes.append(
                    subprocess.Popen(
                        command, cwd=ROOT, env=environment, stdout=lines, stderr=subprocess.STDOUT
                    )
                )

    def post(self, job: str, **arguments: Any) -> int:
        """Start a job on every rank; its number."""
        self._asked += 1
        self._store.set(f"job/{self._asked}", orjson.dumps([job, arguments]))
        return self._asked

    def take(self, number: int) -> list[Any]:
        """What each rank returned, by rank; None from ranks that had nothing to do.

        Raises:
            AssertionError: a rank raised or is gone; says how.
        """
        results = []
        for rank in range(self.size):
            key = f"done/{number}/{rank}"
            for _ in range(10 * PATIENCE_S):
                if self._store.check([key]) or self._processes[rank].poll() is not None:
                    break
                try:
                    self._processes[rank].wait(0.1)
                except subprocess.TimeoutExpired:
                    continue
            assert self._store.check([key]), f"rank {rank}: {self._logs[rank].read_text()[-2000:]}"
            results.append(torch.load(io.BytesIO(self._store.get(key)), weights_only=False))
        raised = [result for result in results if isinstance(result, str)]
        assert not raised, "\n".join(raised)
        return results

    def progress(self, folder: Path) -> tuple[str, int]:
        """(stage, measured steps done) of a run that goes on, as rank 0 last said."""
        key = f"progress/{folder}"
        said = self._store.get(key).decode() if self._store.check([key]) else "starting 0"
        stage, _, step = said.rpartition(" ")
        return stage, int(step)

    def ask(self, job: str, **arguments: Any) -> list[Any]:
        """Run a job on every rank and wait for it."""
        return self.take(self.post(job, **arguments))

    def close(self) -> None:
        """End the processes."""
        self.post("leave")
        for process in self._processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
