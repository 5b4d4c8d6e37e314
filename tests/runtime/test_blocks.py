"""Block numbers against a plain set of them."""

import timeit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fapool.runtime.blocks import BlockPool


def gaps_of(free: set[int]) -> list[tuple[int, int]]:
    """Runs of free numbers, as wide as they go."""
    starts = sorted(block for block in free if block - 1 not in free)
    ends = sorted(block + 1 for block in free if block + 1 not in free)
    return list(zip(starts, ends, strict=True))


@given(st.integers(0, 24), st.lists(st.tuples(st.booleans(), st.integers(0, 9)), max_size=40))
def test_a_block_is_free_or_held_by_one_whatever_is_reserved_and_freed(total, acts):
    pool, held = BlockPool(total), []
    for takes, number in acts:
        if takes and number <= len(pool):
            blocks = pool.reserve(number)
            assert len(blocks) == number
            held.append(blocks)
        elif not takes and held:
            pool.free(held.pop(number % len(held)))
        taken = [block for blocks in held for block in blocks]
        assert len(set(taken)) == len(taken)
        assert set(taken) <= set(range(total))
        assert len(pool) == total - len(taken)
        assert pool._gaps == gaps_of(set(range(total)) - set(taken))


@given(st.sets(st.integers(0, 15)), st.integers(1, 8))
def test_blocks_come_from_the_first_gap_that_is_wide_enough_else_the_lowest_there_are(
    taken, number
):
    pool = BlockPool(16)
    everything = pool.reserve(16)
    free = sorted(set(everything) - taken)
    pool.free(free)
    if number > len(free):
        return
    gaps = [s for s in range(17 - number) if set(range(s, s + number)) <= set(free)]
    blocks = pool.reserve(number)
    assert blocks == (list(range(gaps[0], gaps[0] + number)) if gaps else free[:number])


def test_gaps_that_meet_are_one_so_that_all_can_be_reserved_side_by_side_again():
    pool = BlockPool(12)
    parts = [pool.reserve(3) for _ in range(4)]
    for number in (0, 2, 3, 1):  # on either side, at the end, and in between
        pool.free(parts[number])
    assert pool.reserve(12) == list(range(12))


def test_blocks_may_be_freed_in_any_order():
    pool = BlockPool(8)
    pool.reserve(8)
    pool.free([6, 1, 0, 3])
    assert pool.reserve(2) == [0, 1]
    assert pool.reserve(2) == [3, 6]


@pytest.mark.parametrize("again", [[0], [1], [0, 1], [1, 2]])
def test_a_block_that_is_freed_twice_is_noticed(again):
    pool = BlockPool(4)
    pool.free(pool.reserve(2))
    with pytest.raises(AssertionError, match="twice"):
        pool.free(again)


def test_more_than_there_is_cannot_be_reserved():
    pool = BlockPool(4)
    pool.reserve(3)
    with pytest.raises(AssertionError, match="2 blocks wanted, 1 free"):
        pool.reserve(2)


def test_a_grant_and_its_return_are_quick_in_a_large_pool_full_of_gaps():
    pool = BlockPool(4_000)
    pool.free(pool.reserve(4_000)[::2])
    took_s = timeit.repeat(lambda: pool.free(pool.reserve(64)), number=10, repeat=20)
    assert len(pool._gaps) == 2_000
    assert min(took_s) / 10 < 2e-3  # 0.14 ms on a slow core; in time with blocks^2 it were seconds
