"""Every nanosecond of a step goes to exactly one category, by priority."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from fapool.instrument.totals import PRIORITY, partition
from fapool.phases import Category, Phase

START, END = -10, 40
PHASES = (Phase.FFN, Phase.SEND_QUERY, Phase.STEP_BARRIER, Phase.LEASE)
soup = st.lists(
    st.tuples(st.integers(-20, 50), st.integers(-20, 50), st.sampled_from(PHASES)), max_size=12
)


def by_hand(spans) -> dict[Category, int]:
    """Nanosecond by nanosecond: which category comes first among those that claim it."""
    found = dict.fromkeys(Category, 0)
    for now in range(START, END):
        claims = [phase.category for start, end, phase in spans if start <= now < end]
        found[min(claims, key=list(Category).index, default=Category.IDLE)] += 1
    return found


@given(soup)
def test_any_soup_of_spans_is_parted_as_by_hand(spans):
    totals = partition(START, END, [(start, end, PRIORITY[phase]) for start, end, phase in spans])
    assert totals.category_ns == by_hand(spans)
    assert sum(totals.category_ns.values()) == totals.wall_ns == END - START


@given(st.lists(st.integers(START, END), min_size=2, max_size=20), st.data())
def test_spans_one_after_the_other_are_parted_as_by_hand(borders, data):
    borders.sort()
    pairs = list(pairwise(borders))[::2]
    spans = [(start, end, data.draw(st.sampled_from(PHASES))) for start, end in pairs]
    totals = partition(START, END, [(start, end, PRIORITY[phase]) for start, end, phase in spans])
    assert totals.category_ns == by_hand(spans)


def test_a_step_without_spans_is_idle():
    assert partition(5, 9, []).category_ns[Category.IDLE] == 4
