"""The innermost range around an instant, against a look at every range."""

import numpy as np
import pytest

from fapool.analysis.deep.nesting import innermost


def nested(rng: np.random.Generator, start: int, end: int, depth: int) -> list[tuple[int, int]]:
    """A range, and others inside it, disjoint or touching, down to `depth`."""
    found = [(start, end)]
    if depth and end - start > 4:
        cuts = np.sort(rng.integers(start, end, 6)).tolist()
        for first, last in zip(cuts[::2], cuts[1::2], strict=True):
            found += nested(rng, first, last, depth - 1)
    return found


@pytest.mark.parametrize("seed", range(20))
def test_the_innermost_range_is_the_shortest_that_holds_the_instant(seed):
    rng = np.random.default_rng(seed)
    rows = [(*pair, tid) for tid in (7, 9) for pair in nested(rng, 0, 500, 4)]
    rows += [(*pair, 9) for pair in nested(rng, 700, 900, 2)]
    rng.shuffle(rows)
    start, end, tid = np.array(rows).T
    at, on = rng.integers(-10, 920, 300), rng.choice([7, 9, 11], 300)
    found = innermost(start, end, tid, at, on)
    for row, instant, thread in zip(found, at, on, strict=True):
        holding = (start <= instant) & (instant < end) & (tid == thread)
        assert (row >= 0) == holding.any()
        if row >= 0:
            assert holding[row]
            assert end[row] - start[row] == (end - start)[holding].min()


def test_without_ranges_nothing_is_inside():
    none = np.empty(0, np.int64)
    assert innermost(none, none, none, np.array([1]), np.array([1])).tolist() == [-1]
