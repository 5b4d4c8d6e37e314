"""Numbers are printed so that they still add up."""

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from fapool.figures.printed import summed


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=6))
def test_parts_sum_to_their_whole_as_printed(parts_ns):
    parts = [ns / 1e6 for ns in parts_ns]
    *shown, whole = summed(parts, sum(parts_ns) / 1e6)
    assert sum(map(Fraction, shown)) == Fraction(whole)
    assert all(len(text.partition(".")[2]) == 3 for text in (*shown, whole))
