"""One clock for all ranks: how far this rank's host clock lies from Unix time on rank 0.

Ranks of one host share CLOCK_MONOTONIC and so agree exactly; others ask rank 0 for its time over
and over, before and after each repeat of a run. That bounds the offset whatever the path is like;
where the ways there and back differ by design, the middle of the bounds is off by half of that.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from fapool.instrument.alignment import Bound, Line, bound_far, fit, rounds_of

ROUNDS = 64
_PARTS = 4


class HostClock:
    """This rank's host clock against rank 0's: a line, once it was asked at the end, too.

    `clock() + unix_offset_ns` is Unix time by rank 0 as the first series of rounds has it; `settle`
    makes of such a time what all series together say. On rank 0's host it is so from the start.
    """

    def __init__(
        self,
        group: dist.ProcessGroup | None = None,
        *,
        clock: Callable[[], int] = time.perf_counter_ns,
        name: int | None = None,
    ) -> None:
        """Ask for the first time; a collective that takes a few ms per remote rank.

        Args:
            group: all ranks, able to move CPU tensors (gloo); None is the default group.
            name: the same for all ranks that share `clock`; None is `clock_name()`.
        """
        self._group, self._clock = group, clock
        self._rank, world = dist.get_rank(group), dist.get_world_size(group)
        name = clock_name() if name is None else name
        mine = torch.tensor([name, unix_offset_ns(clock)], dtype=torch.int64)
        all_ranks = [torch.empty_like(mine) for _ in range(world)]
        dist.all_gather(all_ranks, mine, group=group)
        names = [int(values[0]) for values in all_ranks]
        self.same_host = name == names[0]
        self._base = int(all_ranks[0][1])
        self._remotes = [rank for rank in range(world) if names[rank] != names[0]]
        self._bounds: list[Bound] = []
        self.ask()
        line = self.line()
        self.unix_offset_ns = self._base + (line.offset_ns(line.end_ns) if line else 0)

    def ask(self) -> None:
        """Another series of rounds; all ranks together. None are made on one host."""
        for remote in self._remotes:  # in turn: no queueing
            if self._rank == 0:
                self._answer(remote)
            elif self._rank == remote:
                asking = _Asking(self._group)
                made = rounds_of(asking.exchange, self._clock, ROUNDS, asking.prepare)
                asking.end()
                self._bounds += [bound_far(*trip) for trip in made]

    def line(self) -> Line | None:
        """What to add to `clock` to get rank 0's, by all rounds so far; None on its host."""
        return fit(self._bounds) if self._bounds else None

    def settle(self) -> Callable[[int], int]:
        """Makes of a time by `unix_offset_ns` the time by all rounds so far; order is kept."""
        line = self.line()
        if line is None:
            return lambda time_ns: time_ns
        first, base = self.unix_offset_ns, self._base
        return lambda time_ns: time_ns - first + base + line.offset_ns(time_ns - first)

    def about(self) -> dict[str, Any]:
        """Offset to rank 0's clock, drift, uncertainty at the first and the last rounds, notes.

        `symmetric_ns`: how far parts of the rounds differ. It is the uncertainty if the quickest
        way there takes as long as the quickest way back; `uncertainty_ns` holds whatever they take.
        """
        line, found = self.line(), {"same_host_as_rank_0": self.same_host}
        if line is None:
            return found | {"offset_ns": 0, "drift_ppb": 0, "uncertainty_ns": 0, "notes": []}
        parts = [fit(self._bounds[part::_PARTS]) for part in range(_PARTS)]
        moments = (line.start_ns, line.end_ns)
        apart = [abs(p.offset_ns(t) - line.offset_ns(t)) for p in parts for t in moments]
        return found | about_line(line, "the clock of rank 0's host") | {"symmetric_ns": max(apart)}

    def _answer(self, remote: int) -> None:
        asked, told = torch.zeros(2, 1, dtype=torch.int64)
        receive = dist.irecv(asked, remote, self._group)
        for number in range(ROUNDS + 1):
            receive.wait()
            told[0] = self._clock()
            send = dist.isend(told, remote, self._group)
            if number < ROUNDS:
                receive = dist.irecv(asked, remote, self._group)
            send.wait()


class _Asking:
    """Rank 0's clock, asked for: the answer is expected before the question goes out."""

    def __init__(self, group: dist.ProcessGroup | None) -> None:
        self._group = group
        self._send: dist.Work | None = None
        self._question, self._answer = torch.zeros(2, 1, dtype=torch.int64)

    def prepare(self) -> None:
        """Expect an answer, once the last question is out."""
        if self._send is not None:
            self._send.wait()
        self._receive = dist.irecv(self._answer, 0, self._group)

    def end(self) -> None:
        """After the last round."""
        self._send.wait()

    def exchange(self) -> int:
        """Ask, and what comes back."""
        self._send = dist.isend(self._question, 0, self._group)
        self._receive.wait()
        return int(self._answer)


def about_line(line: Line, other: str) -> dict[str, Any]:
    """A line as `environment.json` has it; a note where no line fits all rounds."""
    seconds = line.length_ns / 1e9
    both = line.start_uncertainty_ns + line.end_uncertainty_ns
    notes = []
    if line.misfit_ns:
        notes.append(
            f"no steady offset to {other} fits all rounds, by {line.misfit_ns:,} ns: a clock was "
            "stepped or slewed during the run, and times are uncertain by as much"
        )
    return {
        "offset_ns": line.start_offset_ns,
        "drift_ppb": line.drift_ppb,
        "drift_uncertainty_ppb": round(both / seconds),
        "uncertainty_ns": line.uncertainty_ns,
        "start_uncertainty_ns": line.start_uncertainty_ns,
        "end_uncertainty_ns": line.end_uncertainty_ns,
        "rounds": line.rounds,
        "notes": notes,
    }


def unix_offset_ns(clock: Callable[[], int] = time.perf_counter_ns) -> int:
    """What to add to `clock` to get this host's Unix time now."""
    made = rounds_of(time.time_ns, clock, ROUNDS)
    line = fit([bound_far(*trip) for trip in made])
    return line.offset_ns(line.end_ns)


def clock_name() -> int:
    """The same for all processes that share CLOCK_MONOTONIC, as a signed 64-bit number."""
    text = Path("/proc/sys/kernel/random/boot_id").read_text()
    namespace = Path("/proc/self/timens_offsets")  # a container may shift its own clock
    if namespace.exists():
        text += namespace.read_text()
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big", signed=True)
