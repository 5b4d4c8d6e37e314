"""Work items: every token once, never too many, about equally long, and fast to plan."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fapool.runtime.kernels.splits import capacity, plan_splits

LENGTHS = st.lists(st.integers(0, 5000) | st.sampled_from([0, 1, 64, 131072]), min_size=1)


@st.composite
def shapes(draw) -> dict:
    return {
        "heads": draw(st.sampled_from([1, 3, 8, 32])),
        "slots": draw(st.sampled_from([2, 108, 132, 396])),
        "tile": draw(st.sampled_from([16, 64, 128])),
        "resident": draw(st.sampled_from([1, 2, 3])),
    }


def most(lengths: list[int], shape: dict) -> int:
    return capacity(len(lengths), heads=shape["heads"], slots=shape["slots"])


@given(lengths=LENGTHS, shape=shapes(), scarce=st.booleans())
@settings(max_examples=200)
def test_every_token_lies_in_exactly_one_item(lengths, shape, scarce):
    items = len(lengths) if scarce else most(lengths, shape)
    plan = plan_splits(lengths, **shape, capacity=items)
    assert len(plan.row) == len(plan.start) == len(plan.stop) == items
    assert plan.first[0] == 0
    for row, length in enumerate(lengths):
        mine = range(plan.first[row], plan.first[row + 1])
        assert all(plan.row[i] == row for i in mine)
        assert all(plan.start[i] % shape["tile"] == 0 for i in mine)
        covered = np.concatenate([np.arange(plan.start[i], plan.stop[i]) for i in mine] or [[]])
        np.testing.assert_array_equal(covered, np.arange(length))
    unused = slice(plan.first[-1], None)
    assert not plan.row[unused].any() and not plan.start[unused].any()
    assert not plan.stop[unused].any()


@given(lengths=LENGTHS, shape=shapes())
@settings(max_examples=200)
def test_no_used_item_is_empty_and_those_of_a_row_differ_by_one_tile_at_most(lengths, shape):
    plan = plan_splits(lengths, **shape, capacity=most(lengths, shape))
    used = plan.first[-1]
    assert (plan.stop[:used] > plan.start[:used]).all()
    tiles = -(-(plan.stop - plan.start) // shape["tile"])
    for begin, end in zip(plan.first, plan.first[1:], strict=False):
        if end > begin:
            assert tiles[begin:end].max() - tiles[begin:end].min() <= 1


@pytest.mark.parametrize("lengths", [[16384] * 64, [131072], [8192] * 16, [131072] + [300] * 63])
@pytest.mark.parametrize("heads", [1, 8, 32])
def test_no_slot_waits_for_long(lengths, heads):
    # Programs to the next free slot, in order: what the device does.
    shape = {"heads": heads, "slots": 132, "tile": 64}
    plan = plan_splits(lengths, **shape, capacity=most(lengths, shape))
    busy = np.zeros(132)
    for size in np.repeat(plan.stop - plan.start, heads):
        busy[busy.argmin()] += size
    assert busy.max() <= 1.15 * busy.mean()


def test_rows_without_tokens_get_no_item_even_if_there_are_only_such():
    plan = plan_splits([0, 0, 0], heads=8, slots=132, tile=64, capacity=4)
    assert plan.first.tolist() == [0, 0, 0, 0] and not plan.packed.any()


def test_a_plan_takes_few_microseconds():
    lengths = [1000 + 250 * i for i in range(64)]
    took = []
    for _ in range(200):
        start = time.perf_counter()
        plan_splits(lengths, heads=32, slots=396, tile=64, capacity=200, resident=3)
        took.append(time.perf_counter() - start)
    assert min(took) < 100e-6  # 40 us on a quiet core
