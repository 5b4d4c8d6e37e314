"""Which range of a thread is the innermost around an instant."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


def innermost(start_ns: Ints, end_ns: Ints, thread: Ints, at_ns: Ints, on: Ints) -> Ints:
    """Row of the innermost range [start, end) of thread `on` that holds `at_ns`; -1 for none.

    Ranges of one thread nest or are disjoint. Shapes: ranges [n], instants [m] -> [m].
    """
    found = np.full(len(at_ns), -1, np.int64)
    for tid in np.unique(on):
        rows = np.flatnonzero(thread == tid)
        rows = rows[np.lexsort((-end_ns[rows], start_ns[rows]))]
        asked = np.flatnonzero(on == tid)
        if len(rows):
            at = _innermost(start_ns[rows], end_ns[rows], at_ns[asked])
            found[asked] = np.where(at >= 0, rows[at], -1)
    return found


def _innermost(start_ns: Ints, end_ns: Ints, at_ns: Ints) -> Ints:
    """The same for one thread, whose ranges are sorted by start, outer ones first."""
    parents = _parents(start_ns, end_ns)
    found = np.searchsorted(start_ns, at_ns, side="right") - 1
    while (over := (found >= 0) & (end_ns[found] <= at_ns)).any():
        found[over] = parents[found[over]]
    return found


def _parents(start_ns: Ints, end_ns: Ints) -> Ints:
    parents, open_rows = np.full(len(start_ns), -1, np.int64), []
    ends = end_ns.tolist()
    for row, start in enumerate(start_ns.tolist()):
        while open_rows and ends[open_rows[-1]] <= start:
            open_rows.pop()
        if open_rows:
            parents[row] = open_rows[-1]
        open_rows.append(row)
    return parents
