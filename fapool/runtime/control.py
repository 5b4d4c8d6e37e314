"""What ranks tell each other about the run itself: go on, stop, and how a check went.

A tick opens a step (not every decode step of GPUs, see `engine.STOPS`): rank 0 looks for the stop
request and tells the others. Rank 0 does not wait for them, so that it can be one tick ahead and
no further.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed as dist

from fapool.instrument.recorder import NO_SPAN
from fapool.phases import Phase, Role
from fapool.runtime.span import Span

GO, STOP = 0, 1


class Control:
    """Small CPU messages on a group of their own (gloo)."""

    def __init__(self, group: dist.ProcessGroup, *, rank: int, world: int, stop_file: Path) -> None:
        self._group, self._rank, self._world, self._stop = group, rank, world, stop_file
        self._sent: list[dist.Work] = []
        self._word = torch.zeros(1, dtype=torch.int64)

    def tick(self, span: Span, role: Role) -> bool:
        """Open a step; False when the run is to stop before it.

        Waiting counts as synchronization on a base rank. A pool rank that waits for work is idle.
        """
        if self._rank == 0:
            with span(Phase.STEP_BARRIER):
                self.settle()
                self._word = torch.tensor([STOP if self._stop.exists() else GO])
                self._sent = [
                    dist.isend(self._word, other, group=self._group)
                    for other in range(1, self._world)
                ]
        else:
            with span(Phase.STEP_BARRIER) if role is Role.BASE else NO_SPAN:
                dist.recv(self._word, 0, group=self._group)
        return int(self._word) == GO

    def agree(self, passed: bool | None, *, source: int) -> bool:
        """`source`'s verdict, on every rank."""
        word = torch.tensor([int(bool(passed))])
        dist.broadcast(word, source, group=self._group)
        return bool(word)

    def share(self, values: Sequence[int], *, source: int) -> list[int]:
        """`source`'s whole numbers, on every rank; as many everywhere."""
        words = torch.tensor(values, dtype=torch.int64)
        dist.broadcast(words, source, group=self._group)
        return words.tolist()

    def barrier(self) -> None:
        """Wait for all ranks."""
        self.settle()
        dist.barrier(group=self._group)

    def settle(self) -> None:
        """Wait until what was sent is taken."""
        for work in self._sent:
            work.wait()
        self._sent = []
