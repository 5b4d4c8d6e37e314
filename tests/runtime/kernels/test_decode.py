"""The decode kernel's items and rows against softmax written out in fp64."""

from dataclasses import dataclass, replace

import pytest
import torch

from tests.runtime.kernels.interpreter import DEVICE, here

pytest.importorskip("triton")
from fapool.runtime.kernels.combine import combine
from fapool.runtime.kernels.decode import Decode, Tuning, decode, tuning
from fapool.runtime.kernels.splits import SplitPlan


@dataclass(frozen=True)
class Case:
    heads: int
    kv_heads: int
    dim: int
    block: int
    lengths: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    processors: int = 4
    capacity: int | None = None


UNEVEN = (33, 0, 1, 16, 150)
SMALL = [
    Case(4, 4, 16, 16, UNEVEN),
    Case(6, 2, 32, 64, UNEVEN),
    Case(4, 1, 64, 48, UNEVEN),  # blocks that tiles do not divide
    Case(8, 2, 16, 64, (63, 64, 65, 127, 128, 129)),
    Case(3, 3, 16, 128, (700,), processors=40),  # more items than rows
    Case(2, 2, 16, 16, UNEVEN, capacity=5),  # no more items than rows
    Case(4, 2, 32, 32, UNEVEN, dtype=torch.float16),
    Case(2, 1, 256, 16, (40, 3)),
    Case(2, 2, 16, 16, (0, 0)),
]
LONG = (3000, 0, 1, 256, 257, 12000, 255, 513)
LARGE = [
    replace(case, lengths=LONG, dtype=dtype, processors=132)
    for dtype in (torch.bfloat16, torch.float16)
    for case in (
        Case(32, 32, 128, 256, ()),
        Case(8, 8, 128, 256, ()),
        Case(32, 8, 128, 256, ()),
        Case(32, 1, 128, 256, ()),
        Case(71, 1, 64, 256, ()),
        Case(12, 4, 128, 16, ()),
        Case(8, 2, 256, 48, ()),
        Case(4, 4, 64, 128, (), capacity=8),
    )
]
ERROR = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 5e-3}


@dataclass(frozen=True)
class Keys:
    """What lies in a cache: its pages, and each row's own keys and values in fp64."""

    pages: tuple[torch.Tensor, torch.Tensor]
    table: torch.Tensor
    rows: list[tuple[torch.Tensor, torch.Tensor]]


def drawn(case: Case) -> Keys:
    """Scattered blocks of random keys; NaN wherever no row's token lies."""
    needed = [-(-length // case.block) for length in case.lengths]
    number = sum(needed) + 3
    shape = (number, case.block, case.kv_heads, case.dim)
    pages = [torch.full(shape, torch.nan, dtype=case.dtype, device=DEVICE) for _ in "kv"]
    table = torch.zeros(len(needed), max(needed) + 1, dtype=torch.int32)
    free, rows = torch.randperm(number).tolist(), []
    for row, length in enumerate(case.lengths):
        blocks = [free.pop() for _ in range(needed[row])]
        table[row, : len(blocks)] = torch.tensor(blocks)
        rows.append([])
        for page in pages:
            values = torch.randn(length, *shape[2:], device=DEVICE).to(case.dtype)
            rows[-1].append(values.double())
            for i, block in enumerate(blocks):
                part = values[i * case.block : (i + 1) * case.block]
                page[block, : len(part)] = part
    return Keys(tuple(pages), table.to(DEVICE), rows)


def written_out(q, rows) -> tuple[torch.Tensor, torch.Tensor]:
    """out [B, H, D], lse [B, H] in fp64; (0, -inf) for a row without keys."""
    q = q.double()
    out, lse = torch.zeros_like(q), torch.full_like(q[:, :, 0], -torch.inf)
    for row, (k, v) in enumerate(rows):
        group = q.shape[1] // k.shape[1]
        for head in range(q.shape[1] if len(k) else 0):
            scores = k[:, head // group] @ q[row, head] * q.shape[2] ** -0.5
            lse[row, head] = scores.logsumexp(0)
            out[row, head] = torch.softmax(scores, 0) @ v[:, head // group]
    return out, lse


def run(case: Case, q, keys: Keys):
    """(kernel, items, partials, out, lse) of one step, its outputs poisoned before."""
    device = torch.device(DEVICE)
    kernel = decode(
        num_heads=case.heads,
        kv_heads=case.kv_heads,
        dim=case.dim,
        dtype=case.dtype,
        device=device,
    )
    kernel = replace(kernel, processors=case.processors)
    items = case.capacity or kernel.capacity(len(case.lengths))
    plan = kernel.plan(case.lengths, capacity=items)
    on_device = SplitPlan(packed=torch.from_numpy(plan.packed).to(DEVICE), num_items=items)
    partials = (
        torch.full((items, case.heads, case.dim), torch.nan, device=DEVICE),
        torch.full((items, case.heads), torch.nan, device=DEVICE),
    )
    kernel(q, keys.pages, keys.table, on_device, *partials)
    out = torch.full_like(q, torch.nan)
    lse = torch.full(q.shape[:2], torch.nan, device=DEVICE)
    combine(*partials, on_device.first, out, lse)
    return kernel, plan, partials, out, lse


@pytest.mark.parametrize("case", here(SMALL, LARGE))
def test_rows_of_any_length_in_scattered_blocks_see_all_of_their_keys_and_no_other(case):
    torch.manual_seed(0)
    keys = drawn(case)
    q = torch.randn(len(case.lengths), case.heads, case.dim).to(case.dtype).to(DEVICE)
    _, plan, (item_out, _), out, lse = run(case, q, keys)
    expected, expected_lse = written_out(q, keys.rows)
    assert (out.double() - expected).norm() <= ERROR[case.dtype] * expected.norm()
    torch.testing.assert_close(lse.double(), expected_lse, rtol=0, atol=1e-3)
    assert item_out[plan.first[-1] :].isnan().all(), "unused items are left as they are"


@pytest.mark.parametrize("case", here(SMALL[4:5], LARGE[:1]))
def test_queries_may_be_a_slice_of_something_wider(case):
    torch.manual_seed(1)
    keys = drawn(case)
    wide = torch.randn(len(case.lengths), 3, case.heads, 2, case.dim).to(case.dtype).to(DEVICE)
    q = wide[:, 1, :, 0]
    *_, out, _ = run(case, q, keys)
    expected, _ = written_out(q, keys.rows)
    assert (out.double() - expected).norm() <= ERROR[case.dtype] * expected.norm()


@pytest.mark.gpu(1)
def test_a_captured_step_follows_lengths_that_change_on_the_device():
    torch.manual_seed(2)
    case = replace(LARGE[2], lengths=(3000, 0, 800, 5000))
    keys = drawn(case)
    q = torch.randn(4, case.heads, case.dim).to(case.dtype).to(DEVICE)
    kernel, plan, partials, out, lse = run(case, q, keys)
    packed = torch.from_numpy(plan.packed).to(DEVICE)
    items = SplitPlan(packed=packed, num_items=plan.num_items)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kernel(q, keys.pages, keys.table, items, *partials)
        combine(*partials, items.first, out, lse)
    for lengths in ((3000, 0, 800, 5000), (1, 0, 0, 4999), (2999, 0, 256, 0)):
        plan = kernel.plan(lengths, capacity=plan.num_items)
        packed.copy_(torch.from_numpy(plan.packed))
        graph.replay()
        rows = [(k[:n], v[:n]) for (k, v), n in zip(keys.rows, lengths, strict=True)]
        expected, expected_lse = written_out(q, rows)
        assert (out.double() - expected).norm() <= ERROR[case.dtype] * expected.norm()
        torch.testing.assert_close(lse.double(), expected_lse, rtol=0, atol=1e-3)


@pytest.mark.gpu(1)
def test_blocks_beyond_two_to_the_31_elements_are_found():
    block = 2**31 // (256 * 8 * 128) + 1
    pages = [torch.zeros(block + 1, 256, 8, 128, dtype=torch.bfloat16, device=DEVICE) for _ in "kv"]
    for page in pages:
        page[block].normal_()
    keys = Keys(
        tuple(pages),
        torch.tensor([[block]], dtype=torch.int32, device=DEVICE),
        [tuple(page[block].double() for page in pages)],
    )
    case = Case(8, 8, 128, 256, (256,), dtype=torch.bfloat16)
    q = torch.randn(1, 8, 128, dtype=torch.bfloat16, device=DEVICE)
    *_, out, _ = run(case, q, keys)
    expected, _ = written_out(q, keys.rows)
    assert (out.double() - expected).norm() <= ERROR[case.dtype] * expected.norm()


@pytest.mark.parametrize("group", [1, 4, 16, 32, 71, 128])
@pytest.mark.parametrize("token_bytes", [32, 128, 256, 512, 1024])
@pytest.mark.parametrize(("hopper", "shared"), [(True, 227), (False, 163)])
def test_the_tiles_in_flight_fit_the_devices_shared_memory(group, token_bytes, hopper, shared):
    found = tuning(group=group, token_bytes=token_bytes, hopper=hopper)
    in_flight = 2 * found.tile * token_bytes * (found.stages - 1)
    assert in_flight * found.resident <= shared * 1024
    assert Decode(
        tuning=Tuning(tile=16, warps=4, stages=3, resident=2),
        num_heads=group,
        kv_heads=1,
        dim=16,
        processors=108,
    ).padded >= max(16, group)
