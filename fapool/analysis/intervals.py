"""Sets of time: arrays [n, 2] of half-open [start, end) in integer nanoseconds.

Invariant of a *set*: sorted, disjoint, not touching, no empty interval. `union` makes one of
anything; the other functions take sets and give sets. Times are int64 and never pass through a
float: nanoseconds since 1970 do not fit in its 53 bits.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Times = NDArray[np.int64]
"""[n, 2] when a set, [n] when single instants or durations; nanoseconds."""

EMPTY: Times = np.empty((0, 2), np.int64)


def union(*parts: ArrayLike) -> Times:
    """The set covered by any of `parts`, each [n, 2] in any order, overlapping or empty."""
    spans = np.concatenate([np.asarray(part, np.int64).reshape(-1, 2) for part in parts] or [EMPTY])
    spans = spans[spans[:, 1] > spans[:, 0]]
    if not len(spans):
        return EMPTY
    spans = spans[np.argsort(spans[:, 0], kind="stable")]
    reach = np.maximum.accumulate(spans[:, 1])
    opens = np.r_[True, spans[1:, 0] > reach[:-1]]
    closes = np.r_[opens[1:], True]
    return np.column_stack([spans[opens, 0], reach[closes]])


def intersect(a: Times, b: Times) -> Times:
    """The set covered by both."""
    return overlaps(a, b)[2]


def overlaps(a: Times, b: Times) -> tuple[Times, Times, Times]:
    """Where rows of `a` and of `b` overlap: row of a [m], row of b [m], interval [m, 2].

    Rows of either are sorted and disjoint, and may touch: they need not be a set. The result is in
    order of time.
    """
    first = np.searchsorted(b[:, 1], a[:, 0], side="right")
    count = np.maximum(np.searchsorted(b[:, 0], a[:, 1], side="left") - first, 0)
    in_a = np.repeat(np.arange(len(a)), count)
    in_b = np.arange(len(in_a)) - np.repeat(np.cumsum(count) - count, count) + first[in_a]
    start = np.maximum(a[in_a, 0], b[in_b, 0])
    end = np.minimum(a[in_a, 1], b[in_b, 1])
    kept = end > start
    return in_a[kept], in_b[kept], np.column_stack([start, end])[kept]


def subtract(a: Times, b: Times) -> Times:
    """The set covered by `a` and not by `b`."""
    if not len(a) or not len(b):
        return a
    return intersect(a, _complement(b, a[0, 0], a[-1, 1]))


def clip(a: Times, start_ns: int, end_ns: int) -> Times:
    """The part of the set inside [start_ns, end_ns)."""
    return union(np.clip(a, start_ns, max(start_ns, end_ns)))


def total(a: Times) -> int:
    """Nanoseconds covered by a set."""
    return int((a[:, 1] - a[:, 0]).sum())


def covered(a: Times, starts_ns: ArrayLike, ends_ns: ArrayLike) -> Times:
    """Nanoseconds of the set inside each [start, end): int64 [n]; the windows may overlap."""
    return _before(a, np.asarray(ends_ns, np.int64)) - _before(a, np.asarray(starts_ns, np.int64))


def _before(a: Times, instants: Times) -> Times:
    # covered time up to an instant = all intervals that began before it, less what the last
    # of them still has to run
    if not len(a):
        return np.zeros(len(instants), np.int64)
    done = np.r_[0, np.cumsum(a[:, 1] - a[:, 0])]
    began = np.searchsorted(a[:, 0], instants, side="right")
    last_end = a[np.maximum(began - 1, 0), 1]
    rest = np.where(began > 0, np.maximum(last_end - instants, 0), 0)
    return done[began] - rest


def _complement(a: Times, start_ns: int, end_ns: int) -> Times:
    edges = np.r_[min(start_ns, a[0, 0]), a.ravel(), max(end_ns, a[-1, 1])]
    return union(edges.reshape(-1, 2))
