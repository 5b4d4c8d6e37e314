"""Blocks against a plain set of numbers; views against what was written, token by token."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fapool.runtime.kvcache import BlockPool, KVCache

BLOCK, HEADS, DIM = 4, 2, 8
LAYERS = range(2, 5)


@settings(deadline=None)
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


@settings(deadline=None)
@given(st.sets(st.integers(0, 15)), st.integers(1, 8))
def test_blocks_lie_side_by_side_wherever_a_gap_is_wide_enough(taken, number):
    pool = BlockPool(16)
    everything = pool.reserve(16)
    free = sorted(set(everything) - taken)
    pool.free(free)
    if number > len(free):
        return
    gaps = [s for s in range(17 - number) if set(range(s, s + number)) <= set(free)]
    blocks = pool.reserve(number)
    assert blocks == (list(range(gaps[0], gaps[0] + number)) if gaps else free[:number])


def test_a_block_that_is_freed_twice_is_noticed():
    pool = BlockPool(4)
    blocks = pool.reserve(2)
    pool.free(blocks)
    with pytest.raises(AssertionError, match="twice"):
        pool.free(blocks[:1])


def make_cache(blocks: int) -> KVCache:
    return KVCache(
        layers=LAYERS,
        blocks=blocks,
        block_tokens=BLOCK,
        kv_heads=HEADS,
        head_dim=DIM,
        dtype=torch.float64,
        device=torch.device("cpu"),
    )


def content(layer: int, request: int, tokens: int) -> torch.Tensor:
    """Numbers that say whose they are: [tokens, K, D]; values are their negatives."""
    position = torch.arange(tokens, dtype=torch.float64)[:, None, None]
    return 1e6 * layer + 1e3 * request + position + torch.arange(HEADS * DIM).view(HEADS, DIM) / 100


def fill(cache: KVCache, request: int, tokens: int) -> None:
    slots = torch.tensor(cache.slots(request, range(tokens)))
    for layer in LAYERS:
        k = content(layer, request, tokens)
        cache.append(layer, slots, k, -k)


def check_views(cache: KVCache, lengths: dict[int, int]) -> list:
    """Every row of every layer holds its request's tokens; returns the views of one layer."""
    rows = cache.rows(list(lengths), list(lengths.values()))
    for layer in LAYERS:
        seen = 0
        for at, k, v in cache.view(layer, rows).dense():
            assert at.start == seen
            seen = at.stop
            for row, request in enumerate(list(lengths)[at]):
                assert torch.equal(k[row], content(layer, request, lengths[request]))
                assert torch.equal(v[row], -k[row])
        assert seen == len(lengths)
    return list(cache.view(LAYERS.start, rows).dense())


def lies_in(cache: KVCache, k: torch.Tensor) -> bool:
    layer = next(iter(LAYERS))
    pages = cache.view(layer, cache.rows([], [])).k_pages
    return k.untyped_storage().data_ptr() == pages.untyped_storage().data_ptr()


def test_equal_requests_are_read_as_one_strided_batch_without_a_copy():
    cache = make_cache(12)
    for request in range(4):
        cache.reserve(request, 3)
        fill(cache, request, 10)
    views = check_views(cache, dict.fromkeys(range(4), 10))
    assert [k.shape[0] for _, k, _ in views] == [4]
    assert lies_in(cache, views[0][1])


def test_unequal_requests_are_read_one_by_one_without_a_copy():
    cache = make_cache(12)
    lengths = {0: 9, 1: 1, 2: 12, 3: 4}
    for request, length in lengths.items():
        cache.reserve(request, 3)
        fill(cache, request, length)
    views = check_views(cache, lengths)
    assert len(views) == 4
    assert all(lies_in(cache, k) for _, k, _ in views)


def test_scattered_blocks_are_gathered_in_the_order_of_the_tokens():
    cache = make_cache(9)
    for request in range(9):
        cache.reserve(request, 1)
    for request in (1, 3, 4, 7):
        cache.free(request)
    cache.reserve(20, 4)
    fill(cache, 20, 14)
    fill(cache, 0, 4)
    (_, first, _), (_, second, _) = check_views(cache, {0: 4, 20: 14})
    assert lies_in(cache, first)
    assert not lies_in(cache, second)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 14)), min_size=1, max_size=12))
def test_views_hold_what_was_written_after_any_coming_and_going(acts):
    cache, lengths = make_cache(20), {}
    for request, tokens in acts:
        if request in lengths:
            cache.free(request)
            del lengths[request]
        elif sum(-(-n // BLOCK) for n in lengths.values()) + -(-tokens // BLOCK) <= 20:
            cache.reserve(request, -(-tokens // BLOCK))
            fill(cache, request, tokens)
            lengths[request] = tokens
    if lengths:
        check_views(cache, lengths)


def test_tables_and_lengths_are_padded_rows_for_paged_kernels():
    cache = make_cache(8)
    for request, blocks in ((0, 3), (1, 1), (2, 2)):
        cache.reserve(request, blocks)
    rows = cache.rows([2, 0, 1], [5, 12, 2])
    assert rows.table.tolist() == [[4, 5, 0], [0, 1, 2], [3, 0, 0]]
    assert rows.seqlens.tolist() == [5, 12, 2]
    assert rows.table.dtype == rows.seqlens.dtype == torch.int32


def test_what_is_read_from_one_cache_can_be_written_to_another():
    source, target = make_cache(4), make_cache(4)
    source.reserve(0, 3)
    target.reserve(5, 1)  # so that the blocks differ
    target.reserve(0, 3)
    fill(source, 0, 10)
    positions = range(10)
    k, v = source.read(torch.tensor(source.slots(0, positions)))
    target.write(torch.tensor(target.slots(0, positions)), k, v)
    check_views(target, {0: 10})


def test_bytes_are_counted_as_stored():
    cache = make_cache(5)
    cache.reserve(0, 2)
    cache.tokens[0] = 7
    element = 8
    assert cache.num_bytes == 2 * len(LAYERS) * 5 * BLOCK * HEADS * DIM * element
    assert cache.used_bytes == 2 * len(LAYERS) * 7 * HEADS * DIM * element
    assert make_cache(0).num_bytes == 0
