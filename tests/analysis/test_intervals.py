"""The algebra of time sets, against sets of whole milliseconds."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fapool.analysis import intervals

EPOCH_NS = 1_770_000_000_000_000_001  # odd, and past 2**53: a float would round it
raw = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=8)


def grid(spans) -> set[int]:
    """The milliseconds that spans cover."""
    return {ms for start, end in spans for ms in range(start, end)}


def as_set(spans) -> np.ndarray:
    pairs = np.array(spans, np.int64).reshape(-1, 2)
    return intervals.union(pairs + EPOCH_NS)


def back(a: np.ndarray) -> set[int]:
    return grid((a - EPOCH_NS).tolist())


def is_a_set(a: np.ndarray) -> bool:
    edges = a.ravel()
    return a.dtype == np.int64 and a.shape[1] == 2 and bool((np.diff(edges) > 0).all())


@given(raw, raw)
def test_operations_equal_those_on_sets_of_milliseconds(a, b):
    first, second = as_set(a), as_set(b)
    for found, expected in [
        (intervals.union(first, second), grid(a) | grid(b)),
        (intervals.intersect(first, second), grid(a) & grid(b)),
        (intervals.subtract(first, second), grid(a) - grid(b)),
    ]:
        assert is_a_set(found)
        assert back(found) == expected
        assert intervals.total(found) == len(expected)


@given(raw, st.integers(-2, 32), st.integers(-2, 32))
def test_clipping_keeps_what_lies_inside(a, start, end):
    found = intervals.clip(as_set(a), start + EPOCH_NS, end + EPOCH_NS)
    assert is_a_set(found)
    assert back(found) == grid(a) & set(range(start, end))


@given(raw, st.lists(st.tuples(st.integers(-2, 32), st.integers(0, 20)), max_size=6))
def test_covered_counts_every_window_on_its_own(a, windows):
    starts = np.array([start for start, _ in windows], np.int64)
    ends = starts + np.array([length for _, length in windows], np.int64)
    found = intervals.covered(as_set(a), starts + EPOCH_NS, ends + EPOCH_NS)
    assert found.tolist() == [
        len(grid(a) & set(range(start, start + length))) for start, length in windows
    ]


def test_a_union_of_nothing_is_the_empty_set():
    assert intervals.total(intervals.union()) == 0


def test_intervals_that_touch_become_one():
    assert intervals.union([(5, 9)], [(1, 5)]).tolist() == [[1, 9]]


touching = st.lists(st.integers(0, 30), min_size=2, max_size=10, unique=True).map(sorted)


@given(touching, touching)
def test_overlaps_are_all_pairs_that_share_time(a, b):
    rows = [np.column_stack([edges[:-1], edges[1:]]) for edges in (np.array(a), np.array(b))]
    left, right, both = intervals.overlaps(*rows)
    expected = [
        (i, j, max(p[0], q[0]), min(p[1], q[1]))
        for i, p in enumerate(rows[0].tolist())
        for j, q in enumerate(rows[1].tolist())
        if max(p[0], q[0]) < min(p[1], q[1])
    ]
    assert list(zip(left, right, *both.T, strict=True)) == expected
