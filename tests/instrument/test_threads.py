"""Spans of one thread nest or are disjoint, against all pairs."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fapool.instrument.threads import ordered, place_on_threads


def nest_or_are_disjoint(slices: list[tuple[int, int]]) -> bool:
    return not any(a < c < b < d for a, b in slices for c, d in slices)


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=25))
def test_spans_are_placed_so_that_those_of_a_thread_nest(times):
    starts = np.array([min(pair) for pair in times], dtype=np.int64)
    ends = np.array([max(pair) for pair in times], dtype=np.int64)
    order = ordered(starts, ends)
    starts, ends = starts[order], ends[order]
    threads = place_on_threads(starts.tolist(), ends.tolist())
    for thread in range(len(times)):
        own = list(zip(starts[threads == thread], ends[threads == thread], strict=True))
        assert nest_or_are_disjoint(own)


def test_a_second_thread_is_for_those_that_do_not_fit_alone():
    assert place_on_threads([0, 2, 5, 6], [10, 8, 12, 7]).tolist() == [0, 0, 1, 0]
