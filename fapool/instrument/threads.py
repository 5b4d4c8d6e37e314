"""On which thread of a picture a span stands: those of one thread nest or are disjoint.

Perfetto drops a slice that overlaps another of its thread without nesting.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def place_on_threads(starts: Sequence[int], ends: Sequence[int]) -> NDArray[np.int64]:
    """The thread of each span, from 0: the first on which it fits.

    In order of start, the longer first of those that start at once.
    """
    open_ends: list[list[int]] = []  # of each thread, innermost last
    found = np.zeros(len(starts), dtype=np.int64)
    for number, (start, end) in enumerate(zip(starts, ends, strict=True)):
        thread = 0
        while thread < len(open_ends) and not _fits(open_ends[thread], start, end):
            thread += 1
        if thread == len(open_ends):
            open_ends.append([])
        open_ends[thread].append(end)
        found[number] = thread
    return found


def _fits(ends: list[int], start: int, end: int) -> bool:
    while ends and ends[-1] <= start:
        ends.pop()
    return not ends or end <= ends[-1]


def ordered(starts: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """Positions in the order that `place_on_threads` wants."""
    return np.lexsort((-ends, starts))
