"""What the live view shows, computed from samples: shares of a recent window, TPOT over time."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import numpy as np

from fapool.phases import Category, Owner
from fapool.sample import Sample

CATEGORIES = tuple(Category)
PARTS = ("weights", "KV, used", "KV, reserved", "activations", "buffers")
"""Parts of memory that add up; the order in which they are stacked."""

RANK_FIELDS = (*CATEGORIES, *PARTS, "capacity", "leases")
"""Numbers of one rank in a frame, in order. `live.js` reads them by this order."""


class Window:
    """Shares of one rank's wall time over its last `span_ns`, from cumulative samples."""

    def __init__(self, span_ns: int = 1_500_000_000) -> None:
        self._span_ns = span_ns
        self._samples: deque[Sample] = deque()

    def add(self, sample: Sample) -> None:
        """Take a newer sample; an older or equal one is passed over."""
        if self._samples and sample.sequence <= self._samples[-1].sequence:
            return
        if self._samples and sample.wall_ns < self._samples[-1].wall_ns:
            self._samples.clear()  # counters began anew: another run
        if self._samples and sample.wall_ns == self._samples[-1].wall_ns:
            self._samples[-1] = sample
            return
        self._samples.append(sample)
        # Invariant: the second-oldest lies inside the span, so that the difference covers it.
        while len(self._samples) > 2 and sample.wall_ns - self._samples[1].wall_ns >= self._span_ns:
            self._samples.popleft()

    def shares(self) -> dict[Category, float]:
        """Category -> share of the wall time; they sum to one, or are all zero before any time."""
        if not self._samples or not self._samples[-1].wall_ns:
            return dict.fromkeys(CATEGORIES, 0.0)
        new = self._samples[-1]
        old = self._samples[0] if len(self._samples) > 1 else None
        wall = new.wall_ns - (old.wall_ns if old else 0)
        before = old.category_ns if old else {}
        spent = {c: new.category_ns.get(c, 0) - before.get(c, 0) for c in CATEGORIES}
        assert sum(spent.values()) == wall, f"rank {new.rank}: categories do not sum to wall time"
        return {category: ns / wall for category, ns in spent.items()}


class History:
    """(seconds, TPOT ms, leases) over a whole run in at most `limit` points."""

    def __init__(self, limit: int = 400) -> None:
        assert limit % 2 == 0
        self._limit, self._stride, self._seen = limit, 1, 0
        self._points: list[tuple[float, float, float]] = []

    def add(self, seconds: float, tpot_ms: float, leases: int) -> None:
        """Take a point; once full, every second one is dropped and the pace halved."""
        if self._seen % self._stride == 0:
            self._points.append((seconds, tpot_ms, leases))
            if len(self._points) == self._limit:
                self._points, self._stride = self._points[::2], self._stride * 2
        self._seen += 1

    def array(self) -> np.ndarray:
        """Points as float32 [n, 3]."""
        return np.array(self._points, np.float32).reshape(-1, 3)


class Feed:
    """All that one run's live view has to know; `frame` packs it."""

    def __init__(self, span_ns: int = 1_500_000_000) -> None:
        self._span_ns = span_ns
        self._windows: dict[int, Window] = {}
        self._newest: dict[int, Sample] = {}
        self._history = History()

    def add(self, samples: Mapping[int, Sample]) -> None:
        """Take the newest samples by rank. A point of the line is taken when time was measured."""
        before_s = self.wall_s
        for rank, sample in sorted(samples.items()):
            self._windows.setdefault(rank, Window(self._span_ns)).add(sample)
            self._newest[rank] = sample
        tpot = self.tpot_ms
        if tpot is not None and self.wall_s > before_s:
            self._history.add(self.wall_s, tpot, self.leases)

    @property
    def tpot_ms(self) -> float | None:
        """Of the lowest rank that knows it."""
        known = [s.tpot_ms for _, s in sorted(self._newest.items()) if s.tpot_ms is not None]
        return known[0] if known else None

    @property
    def wall_s(self) -> float:
        """Wall time of the measured steps, of the rank that is furthest."""
        return max((s.elapsed_ns for s in self._newest.values()), default=0) / 1e9

    @property
    def leases(self) -> int:
        """Requests leased out now, as the base counts them."""
        return max((s.leases for s in self._newest.values() if s.role == "base"), default=0)

    @property
    def progress(self) -> tuple[str, int, int]:
        """(stage, steps done, steps in all) of the rank that is furthest behind."""
        if not self._newest:
            return "starting", 0, 0
        last = min(self._newest.values(), key=lambda sample: (sample.step, sample.rank))
        return last.stage, last.step, last.steps

    def frame(self) -> bytes:
        """float32: [ranks, points], then `RANK_FIELDS` per rank, then (s, ms, leases) per point."""
        points = self._history.array()
        ranks = [self._numbers(rank) for rank in sorted(self._newest)]
        parts = [[len(ranks), len(points)], *ranks, points.ravel()]
        return np.concatenate([np.asarray(part, np.float32) for part in parts]).tobytes()

    def _numbers(self, rank: int) -> list[float]:
        sample, shares = self._newest[rank], self._windows[rank].shares()
        held = memory_parts(sample.memory_bytes)
        return [*shares.values(), *held, sample.capacity_bytes, sample.leases]


def memory_parts(held: Mapping[str, int]) -> list[int]:
    """Bytes of each of `PARTS`: the cache apart into what holds tokens and what is reserved."""
    cache = held.get(Owner.KV, 0)
    used = min(held.get(Owner.KV_USED, 0), cache)
    rest = [held.get(owner, 0) for owner in (Owner.ACTIVATIONS, Owner.BUFFERS)]
    return [held.get(Owner.WEIGHTS, 0), used, cache - used, *rest]
