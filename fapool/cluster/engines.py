"""The ranks' processes by rank. A rank keeps its number: what replaces a dead process takes it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from ipyparallel import AsyncResult
from ipyparallel.cluster.launcher import LocalEngineLauncher
from ipyparallel.error import RemoteError

from fapool.cluster import engine, processes
from fapool.cluster.hub import POLL_S, Hub
from fapool.cluster.patience import Patience
from fapool.errors import FapoolError, RankFailed

PRINTED = 65536
"""Characters that are kept of what a process printed, at most."""


@dataclass
class _Engine:
    id: int  # ipyparallel's
    launcher: LocalEngineLauncher
    described: dict[str, Any]
    read: int = 0  # characters of its output that were read already


class Engines:
    """`n` engines by rank. One thread at a time, but for `close`, `kill` and the questions."""

    def __init__(
        self, n: int, *, entry: str, patience: Patience, tell: Callable[[str], None]
    ) -> None:
        self.n, self.entry, self.patience, self.tell = n, entry, patience, tell
        self.closed = False
        self._hub: Hub | None = None
        self._engines: dict[int, _Engine] = {}

    def restore(self, timeout_s: float) -> None:
        """Start whatever is missing, the first time everything.

        Raises:
            RankFailed: a rank could not load what it runs; nothing is left.
            FapoolError: a process ended, or did not come up in time; nothing is left.
        """
        if self.closed:
            raise FapoolError("these ranks are closed; start new ones")
        deadline = time.monotonic() + timeout_s
        if self._hub is not None and not self._hub.lives:
            self._end_all()
        missing = [rank for rank in range(self.n) if not self.is_alive(rank)]
        if not missing:
            return
        try:
            self._start(missing, deadline)
        except BaseException:
            self._end_all()
            raise

    def describe(self) -> list[dict[str, Any]]:
        """What each rank said of itself when it came up."""
        return [dict(mine.described) for _, mine in sorted(self._engines.items())]

    def is_alive(self, rank: int) -> bool:
        """Whether the rank's process lives."""
        return rank in self._engines and processes.lives(self._engines[rank].launcher.process)

    def pid(self, rank: int) -> int:
        """Of the rank's process."""
        return self._engines[rank].launcher.pid

    def how_it_ended(self, rank: int) -> str:
        """In words, for a rank whose process is gone."""
        return processes.how_it_ended(self._engines[rank].launcher)

    def kill(self, ranks: Iterable[int]) -> None:
        """End the processes of ranks that will not end by themselves."""
        held = self._engines
        processes.end([held[rank].launcher.process for rank in ranks if rank in held])

    def printed(self, rank: int) -> str:
        """What the rank's process printed since this was last asked."""
        if rank not in self._engines or self._hub is None:
            return ""
        mine = self._engines[rank]
        text = self._hub.printed(mine.launcher.pid)
        new, mine.read = text[mine.read :], len(text)
        return new[-PRINTED:]

    def send(self, rank: int, function: Callable[..., Any], *args: Any) -> AsyncResult:
        """Call a function of `fapool.cluster.engine` on a rank; returns at once."""
        assert self._hub is not None
        return self._call(self._engines[rank].id, function, *args)

    def ask(self, rank: int, function: Callable[..., Any], *args: Any) -> Any:
        """The same of an idle rank, and wait for the answer.

        Raises:
            RankFailed: the rank raised, died, or gave no answer in time.
        """
        result = self.send(rank, function, *args)
        deadline = time.monotonic() + self.patience.answer_s
        while not result.ready():
            if not self.is_alive(rank):
                raise RankFailed(rank, self.how_it_ended(rank))
            if time.monotonic() > deadline:
                raise RankFailed(rank, f"gave no answer in {self.patience.answer_s:.0f} s")
            time.sleep(POLL_S / 5)
        return _answer(rank, result)

    def close(self) -> None:
        """End all processes and remove what they wrote. May be called again."""
        self.closed = True
        self._end_all()

    def _start(self, ranks: list[int], deadline: float) -> None:
        self.tell(f"starting {len(ranks)} of {self.n} ranks")
        if self._hub is None:
            self._hub = Hub(grace_s=self.patience.client_s)
        ids, launchers = self._hub.spawn(len(ranks), deadline, lambda: self.closed)
        self.tell(f"{len(ranks)} of {self.n} ranks are up and load torch")
        sent = {
            rank: (id, self._call(id, engine.describe, rank))
            for rank, id in zip(ranks, ids, strict=True)
        }
        while not all(result.ready() for _, result in sent.values()):
            gone = not all(processes.lives(each.process) for each in launchers.values())
            if gone or self.closed or time.monotonic() > deadline:
                raise FapoolError("a rank ended, or did not load torch in time")
            time.sleep(POLL_S)
        for rank, (id, result) in sent.items():
            described = _answer(rank, result)
            self._engines[rank] = _Engine(id, launchers[described["pid"]], described)
        self.tell(f"{self.n} ranks are ready")

    def _call(self, id: int, function: Callable[..., Any], *args: Any) -> AsyncResult:
        return self._hub.client[id].apply_async(function, self.entry, *args)

    def _end_all(self) -> None:
        hub, self._hub, self._engines = self._hub, None, {}
        if hub is not None:
            hub.close()


def _answer(rank: int, result: AsyncResult) -> Any:
    try:
        return result.get()
    except RemoteError as error:
        raise RankFailed(rank, f"raised {error.ename}: {error.evalue}") from error
