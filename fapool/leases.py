"""Leases of pool columns to requests: a promise with an end, and nothing but metadata.

No torch, no clock, no collective: every rank keeps the same book by the same arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from fapool.schedule import Segment, Step


@dataclass(frozen=True, slots=True)
class Lease:
    """Columns promised to `request`; `tokens`: keys it had when granted (0: all go to the pool)."""

    request: int
    columns: tuple[int, ...]
    tokens: int


def readers(leases: Iterable[Lease], tokens: Mapping[int, int]) -> dict[int, int]:
    """Request -> the column that attends for it, where every column of its lease has its keys.

    By `tokens` of each request: the longest first, to that of its columns with the fewest to read.
    A function of its arguments alone: all ranks find the same.
    """
    load: dict[int, int] = {}
    found = {}
    for lease in sorted(leases, key=lambda lease: (-tokens[lease.request], lease.request)):
        column = min(lease.columns, key=lambda column: (load.get(column, 0), column))
        load[column] = load.get(column, 0) + tokens[lease.request]
        found[lease.request] = column
    return found


@dataclass
class LeaseBook:
    """Who holds which columns. Grants the columns with the fewest tokens promised, lowest first.

    Invariants: a request has one lease at most; every grant is returned once; `load` is the sum
    of the tokens promised on each column, zero when no lease is out.
    """

    columns: int
    width: int  # columns of one lease
    threshold: int  # tokens with keys past which a request is leased
    leases: dict[int, Lease] = field(default_factory=dict)
    load: list[int] = field(default_factory=list)
    _promised: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert 0 <= self.width <= self.columns
        self.load = [0] * self.columns

    def due(self, step: Step, contexts: dict[int, int]) -> list[tuple[Segment, int]]:
        """Segments whose requests need a lease before `step`, with the keys to move.

        A prompt longer than the threshold is leased before its first chunk: nothing to move.
        """
        if not self.width:
            return []
        found = []
        for segment in step.segments:
            length = max(segment.end, contexts[segment.request])
            if segment.request not in self.leases and length > self.threshold:
                found.append((segment, segment.start))
        return found

    def grant(self, request: int, *, tokens: int, promised: int) -> Lease:
        """Lease the least loaded columns to `request`, which will hold `promised` tokens."""
        assert request not in self.leases, f"request {request} is leased already"
        ranked = sorted(range(self.columns), key=lambda column: (self.load[column], column))
        lease = Lease(request, tuple(sorted(ranked[: self.width])), tokens)
        for column in lease.columns:
            self.load[column] += promised
        self.leases[request] = lease
        self._promised[request] = promised
        return lease

    def give_back(self, requests: Iterable[int]) -> list[Lease]:
        """End the leases of those of `requests` that have one."""
        ended = [self.leases.pop(request) for request in requests if request in self.leases]
        for lease in ended:
            promised = self._promised.pop(lease.request)
            for column in lease.columns:
                self.load[column] -= promised
        assert self.leases or not any(self.load), "tokens promised without a lease"
        return ended
