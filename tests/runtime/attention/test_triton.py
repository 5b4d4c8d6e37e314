"""The `triton` backend: where it fits, what it plans, and that rows of a cache come out right."""

import numpy as np
import pytest
import torch

from fapool.runtime.attention.base import over
from fapool.runtime.attention.reference import Reference
from fapool.runtime.attention.triton import Triton
from fapool.runtime.kernels.splits import SplitPlan
from fapool.runtime.kvcache import KVCache
from fapool.runtime.partial import merge
from fapool.runtime.rows import FixedRows, KVView, Rows
from tests.runtime.kernels.interpreter import DEVICE, INTERPRETED, here

DTYPE = torch.float32 if INTERPRETED else torch.bfloat16
ERROR = 2e-6 if INTERPRETED else 5e-3
DIM = 32


def cached(lengths: list[int], kv_heads: int) -> tuple[KVCache, Rows]:
    """A cache with random keys of `lengths`."""
    cache = KVCache(
        layers=range(1),
        blocks=sum(-(-length // 16) for length in lengths),
        block_tokens=16,
        kv_heads=kv_heads,
        head_dim=DIM,
        dtype=DTYPE,
        device=DEVICE,
    )
    for request, length in enumerate(lengths):
        cache.reserve(request, -(-length // 16))
        slots = torch.tensor(cache.slots(request, range(length)), device=DEVICE)
        k, v = (torch.randn(length, kv_heads, DIM).to(DTYPE).to(DEVICE) for _ in "kv")
        cache.append(0, slots, k, v)
    return cache, cache.rows(range(len(lengths)), lengths)


def queries(rows: int, heads: int, tokens: int = 1) -> torch.Tensor:
    return torch.randn(rows, tokens, heads, DIM).to(DTYPE).to(DEVICE)


@pytest.mark.parametrize("heads", here([(4, 4), (4, 2), (3, 1)], [(4, 4), (4, 2), (3, 1)]))
def test_rows_of_a_cache_are_attended_like_by_the_reference(heads):
    torch.manual_seed(0)
    lengths = [1, 16, 100, 17]
    cache, rows = cached(lengths, heads[1])
    q, view = queries(len(lengths), heads[0]), cache.view(0, rows)
    part, expected = over(Triton(), q, view), over(Reference(), q, view)
    assert part.out.dtype == DTYPE and part.lse.dtype == torch.float32
    assert (part.out - expected.out).double().norm() <= ERROR * expected.out.double().norm()
    torch.testing.assert_close(part.lse, expected.lse.float(), rtol=0, atol=1e-3)


@pytest.mark.parametrize("tokens", here([5], [5]))
def test_several_queries_of_a_row_are_left_to_a_dense_kernel(tokens):
    torch.manual_seed(1)
    cache, rows = cached([40, 17], 2)
    q, view = queries(2, 4, tokens), cache.view(0, rows)
    part, expected = over(Triton(), q, view), over(Reference(), q, view)
    assert (part.out - expected.out).double().norm() <= ERROR * expected.out.double().norm()


def fixed(rows: Rows, lengths: list[int], splits: SplitPlan | None) -> FixedRows:
    """Rows of a fixed shape, as a captured step has them: lengths and items on the device."""
    now = Rows(rows.blocks, tuple(lengths), rows.block_tokens, DEVICE)
    return FixedRows(rows.table, now.seqlens, rows.block_tokens, splits, now)


@pytest.mark.parametrize("own", here([True, False], [True, False]))
def test_an_empty_row_is_the_identity_beside_rows_that_are_not(own):
    torch.manual_seed(2)
    cache, full = cached([64, 30, 50], 2)
    q, backend, pages = queries(3, 4), Triton(), cache.view(0, full)
    lengths = [64, 0, 50]
    kernel, splits = backend.kernel(q, pages), None
    if own:
        plan = kernel.plan(lengths, capacity=kernel.capacity(3))
        packed = torch.from_numpy(plan.packed).to(DEVICE)
        splits = SplitPlan(packed=packed, num_items=plan.num_items)
    part = over(backend, q, KVView(pages.k_pages, pages.v_pages, fixed(full, lengths, splits)))
    assert not part.out[1].any() and part.lse[1].isneginf().all()
    whole = over(Reference(), q, pages)
    for row in (0, 2):
        torch.testing.assert_close(part.out[row], whole.out[row], rtol=2e-2, atol=2e-2)
    again = merge([part, part])
    assert not again.out[1].any() and again.lse[1].isneginf().all()


@pytest.mark.parametrize("layers", here([3], [3]))
def test_a_step_is_planned_once_and_its_scratch_kept(layers):
    cache, rows = cached([64, 30], 2)
    backend, q = Triton(), queries(2, 4)
    view = cache.view(0, rows)
    kernel = backend.kernel(q, view)
    plans = {id(backend.items(rows, kernel)) for _ in range(layers)}
    scratch = {id(backend.scratch(8, 4, DIM, q.device)) for _ in range(layers)}
    assert len(plans) == len(scratch) == 1
    first = backend.items(rows, kernel)
    assert backend.items(cache.rows([0, 1], [64, 29]), kernel) is not first


def test_the_items_of_a_frame_hold_every_token_once_while_its_rows_grow_come_and_go():
    shape = {"num_heads": 4, "kv_heads": 2, "dim": DIM, "dtype": DTYPE}
    splitter = Triton().splitter(4, **shape, device=torch.device("cpu"))
    random = np.random.default_rng(0)
    numbers = np.full(splitter.size, -1, dtype=np.int32)
    lengths = np.array([0, 1, 62, 500], dtype=np.int32)
    for step in range(200):
        splitter.cut(lengths, numbers)
        items = splitter.items(numbers)
        for row, length in enumerate(lengths):
            mine = range(items.first[row], items.first[row + 1])
            held = [t for i in mine for t in range(items.start[i], items.stop[i])]
            assert held == list(range(length))
            assert all(items.row[i] == row for i in mine)
        lengths = lengths + (lengths > 0)
        if step % 50 == 49:
            lengths[random.integers(4)] = random.integers(0, 700)


@pytest.mark.skipif(INTERPRETED, reason="fits the CPU where triton interprets")
def test_it_runs_on_gpus_alone():
    where = {"device": torch.device("cpu"), "dtype": torch.bfloat16, "head_dim": 64}
    assert "CUDA" in Triton().unfit(**where) or "not installed" in Triton().unfit(**where)


@pytest.mark.parametrize(
    "what", here([{"dtype": torch.float64}, {"head_dim": 96}], [{"dtype": torch.float64}])
)
def test_what_it_cannot_take_is_named(what):
    where = {"device": torch.device(DEVICE), "dtype": torch.float32, "head_dim": 64}
    assert Triton().unfit(**where) is None
    assert str(next(iter(what.values()))) in Triton().unfit(**(where | what))
