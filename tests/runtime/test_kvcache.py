"""Views against what was written, token by token."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fapool.runtime.kvcache import KVCache

BLOCK, HEADS, DIM = 4, 2, 8
LAYERS = range(2, 5)


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


@settings(max_examples=40)
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


def test_a_negative_slot_writes_nothing_and_the_others_are_written():
    cache = make_cache(3)
    cache.reserve(0, 3)
    before = [pages.clone() for pages in cache.read(torch.arange(12))]
    k = content(LAYERS.start, 0, 3)
    cache.append(LAYERS.start, torch.tensor([-1, 6, -1], dtype=torch.int32), k, -k)
    after = cache.read(torch.arange(12))
    assert torch.equal(after[0][0, 6], k[1])
    assert torch.equal(after[1][0, 6], -k[1])
    others = [slot for slot in range(12) if slot != 6]
    for old, new in zip(before, after, strict=True):
        assert torch.equal(old[:, others], new[:, others])


def test_every_coming_and_going_is_counted_so_that_tables_are_written_anew():
    cache, seen = make_cache(6), []
    for act in (
        lambda: cache.reserve(0, 2),
        lambda: cache.reserve(1, 2),
        lambda: cache.free(0),
        lambda: cache.reserve(0, 3),
        cache.clear,
    ):
        act()
        seen.append(cache.changes)
    assert seen == sorted(set(seen))
    assert cache.num_tokens == 0


def test_slots_run_through_a_request_s_blocks_wherever_these_lie():
    cache = make_cache(9)
    for request in range(9):
        cache.reserve(request, 1)
    for request in (1, 3, 6):
        cache.free(request)
    cache.reserve(20, 3)
    every = [block * BLOCK + rest for block in (1, 3, 6) for rest in range(BLOCK)]
    assert cache.slots(20, range(12)) == every
    assert cache.slots(20, (7, 0)) == [every[7], every[0]]
