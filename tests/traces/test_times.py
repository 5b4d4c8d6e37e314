"""Microseconds become nanoseconds, and none is lost."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fapool.traces.events import EXACT_BELOW_US
from fapool.traces.times import MISSING, to_ns

small = st.lists(st.integers(-(2**50), int(EXACT_BELOW_US) * 1000 - 1), max_size=20)
large = st.lists(st.integers(-(2**60), 2**60), max_size=20)


def text(ns: int) -> str:
    return f"{'-' * (ns < 0)}{abs(ns) // 1000}.{abs(ns) % 1000:03d}"


@given(small)
def test_floats_up_to_the_limit_keep_every_nanosecond(instants):
    assert to_ns([float(text(ns)) for ns in instants]).tolist() == instants


@given(large)
def test_texts_and_decimals_keep_every_nanosecond_at_any_size(instants):
    assert to_ns([text(ns) for ns in instants]).tolist() == instants
    assert to_ns([Decimal(text(ns)) for ns in instants]).tolist() == instants


def test_the_limit_is_where_floats_begin_to_lose():
    at = int(EXACT_BELOW_US) * 1000
    lost = [ns for ns in range(at, at + 3000) if round(float(text(ns)) * 1000) != ns]
    assert lost


@pytest.mark.parametrize("nothing", [None, "", "soon", "nan", float("nan"), float("inf"), "1e40"])
def test_what_is_no_instant_is_missing(nothing):
    assert to_ns([1.5, nothing]).tolist() == [1500, MISSING]
