"""A trace's clock is moved by what its run found out, where that contradicts the trace."""

import pytest

from fapool.traces import shifts


def entry(rank: int, **profiler: int) -> dict:
    return {"rank": rank, "clock": {"profiler": profiler or None}}


def test_only_an_offset_beyond_its_uncertainty_moves_a_trace():
    ranks = [entry(0, offset_ns=-9_000, uncertainty_ns=12_000)]
    ranks += [entry(1, offset_ns=-9_000, uncertainty_ns=8_000), entry(2, offset_ns=-7)]
    assert shifts({"ranks": ranks}) == {0: 0, 1: -9_000, 2: -7}


@pytest.mark.parametrize(
    "environment", [{}, {"ranks": "two"}, {"ranks": [entry(0), {"rank": 1}, {"clock": {}}, 3]}]
)
def test_what_a_run_does_not_say_moves_nothing(environment):
    assert shifts(environment) == {}
