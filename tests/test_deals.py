"""Blocks dealt to keepers, against a walk over every block and token."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fapool.deals import BASE, HOME, Deal, weighted

PATTERNS = st.lists(st.integers(BASE, 4), min_size=1, max_size=9)
DEALS = st.builds(Deal, st.builds(tuple, PATTERNS))
BLOCKS = st.integers(1, 7)


def held(deal: Deal, length: int, block: int) -> dict[int, list[int]]:
    """Keeper -> positions of the tokens that lie with it, in order."""
    found: dict[int, list[int]] = {keeper: [] for keeper in deal.keepers}
    for position in range(length):
        found[deal.pattern[(position // block) % len(deal.pattern)]].append(position)
    return found


@given(DEALS, st.integers(0, 200), BLOCKS)
def test_every_token_has_exactly_one_keeper(deal, length, block):
    for keeper, positions in held(deal, length, block).items():
        assert deal.tokens(length, block, keeper) == len(positions)
    assert sum(deal.tokens(length, block, keeper) for keeper in deal.keepers) == length


@given(DEALS, st.integers(0, 100))
def test_every_block_has_exactly_one_keeper(deal, number):
    owners = Counter(deal.owner(block) for block in range(number))
    for keeper in deal.keepers:
        assert deal.blocks(number, keeper) == owners[keeper]
    assert owners.total() == number


@given(DEALS, st.integers(1, 120), BLOCKS)
def test_a_keeper_numbers_its_tokens_from_0_and_knows_which_are_not_its_own(deal, length, block):
    for keeper, positions in held(deal, length, block).items():
        found = [deal.local(position, block, keeper) for position in range(length)]
        assert [found[position] for position in positions] == list(range(len(positions)))
        assert found.count(-1) == length - len(positions)


@given(DEALS, st.integers(0, 60), BLOCKS)
def test_who_is_no_keeper_has_nothing(deal, length, block):
    assert deal.blocks(length, 5) == deal.tokens(length, block, 5) == 0
    assert deal.local(length, block, 5) == -1


COLUMNS = st.lists(st.integers(0, 4), min_size=1, max_size=5, unique=True).map(tuple)


@given(COLUMNS, st.integers(0, 200), BLOCKS)
def test_what_is_copied_lies_whole_and_in_order_with_each_of_its_keepers(columns, length, block):
    deal = Deal(columns, copied=True)
    for keeper in columns:
        assert deal.tokens(length, block, keeper) == length
        found = [deal.local(position, block, keeper) for position in range(length)]
        assert found == list(range(length))
    assert deal.tokens(length, block, 5) == deal.blocks(length, 5) == 0
    assert deal.local(length, block, 5) == -1


def test_what_is_copied_is_attended_by_its_reader_alone_and_what_is_dealt_by_all():
    copied, dealt = Deal((0, 1, 2), copied=True, reader=1), Deal((0, 1, 2))
    assert [copied.reads(keeper) for keeper in (BASE, 0, 1, 2)] == [False, False, True, False]
    assert all(dealt.reads(keeper) for keeper in (BASE, 0, 1, 2))


WEIGHTS = st.lists(st.integers(1, 8), min_size=1, max_size=5)


@given(WEIGHTS)
def test_a_round_has_as_many_blocks_of_a_keeper_as_its_weight_says(weights):
    deal = weighted(list(enumerate(weights)))
    assert Counter(deal.pattern) == dict(enumerate(weights))


@given(WEIGHTS)
def test_weighted_turns_are_spread_evenly_over_a_round(weights):
    """Turn i of w lies (i + 1/2) / w into a round: no keeper is more than half a turn off."""
    deal, total = weighted(list(enumerate(weights))), sum(weights)
    for keeper, weight in enumerate(weights):
        for number in range(total + 1):
            off = abs(deal.blocks(number, keeper) - number * weight / total)
            assert off <= (1 + len(weights) * weight / total) / 2 + 1e-9


def test_equal_weights_take_turns_in_the_order_given():
    assert weighted([(BASE, 1), (2, 1), (0, 1)]).pattern == (BASE, 2, 0)
    assert weighted([(BASE, 2), (0, 1)]).pattern == (BASE, 0, BASE)


def test_at_home_everything_lies_with_the_base():
    assert HOME.keepers == (BASE,)
    assert HOME.tokens(1000, 16, BASE) == 1000


def test_a_deal_to_nobody_is_no_deal():
    with pytest.raises(AssertionError, match="nobody"):
        Deal(())
