"""The torch forms against the same written out in fp64, element by element."""

import math

import pytest
import torch

from fapool.runtime import elementwise
from fapool.runtime.elementwise import TorchOps, TritonOps, operations

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
HEADS = [(4, 4), (4, 2), (6, 1)]  # MHA, GQA, MQA
ERROR = {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 8e-3}
TOKENS = [1, 5]


def check(
    found: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype, *, roundings: int = 1
) -> None:
    """Within some roundings of `dtype`, of values around 1."""
    assert found.dtype == dtype
    error = roundings * ERROR[dtype]
    torch.testing.assert_close(found.double(), expected, rtol=error, atol=error)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("dtype", ERROR)
@pytest.mark.parametrize("tokens", TOKENS)
def test_a_sum_is_normed_as_it_was_rounded(dtype, tokens):
    x, delta = torch.randn(2, tokens, 12, dtype=dtype)
    gain = torch.randn(12, dtype=dtype)
    total, normed = TorchOps(dtype).add_norm(x, delta, gain, 1e-2)
    check(total, x.double() + delta.double(), dtype)
    rows = []
    for row in total.double().tolist():
        root = math.sqrt(sum(y * y for y in row) / 12 + 1e-2)
        rows.append([g * y / root for y, g in zip(row, gain.tolist(), strict=True)])
    check(normed, torch.tensor(rows, dtype=torch.float64), dtype)


def test_without_a_product_to_add_the_hidden_states_come_back_themselves():
    x, gain = torch.randn(3, 8), torch.ones(8)
    before = x.clone()
    total, normed = TorchOps(x.dtype).add_norm(x, None, gain, 1e-6)
    assert total is x
    assert torch.equal(x, before)
    assert torch.equal(normed, TorchOps(x.dtype).add_norm(x, torch.zeros_like(x), gain, 1e-6)[1])


@pytest.mark.parametrize("dtype", ERROR)
@pytest.mark.parametrize("index", [torch.int32, torch.int64])
def test_angles_are_exact_however_far_out_a_position_lies(dtype, index):
    positions, frequencies = [0, 1, 4097, 131_071, 1_048_575], [1.0, 0.31, 1e-4]
    found = TorchOps(dtype).rotation(
        torch.tensor(positions, dtype=index), torch.tensor(frequencies, dtype=torch.float64)
    )
    for values, function in zip(found, (math.cos, math.sin), strict=True):
        rows = [[function(p * f) for f in frequencies] for p in positions]
        check(values, torch.tensor(rows, dtype=torch.float64), dtype)


@pytest.mark.parametrize(("heads", "kv_heads"), HEADS)
@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("dtype", ERROR)
def test_queries_and_keys_are_turned_as_complex_numbers_and_values_left(
    heads, kv_heads, tokens, dtype
):
    dim = 8
    qkv = torch.randn(tokens, (heads + 2 * kv_heads) * dim, dtype=dtype)
    angles = torch.randn(tokens, dim // 2, dtype=torch.float64)
    cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
    parts = TorchOps(dtype).rotate(qkv, cos, sin, heads, kv_heads)
    turn = torch.complex(cos.double(), sin.double())
    slices = qkv.double().split([heads * dim, kv_heads * dim, kv_heads * dim], dim=1)
    for number, (part, rows) in enumerate(zip(parts, slices, strict=True)):
        expected = rows.unflatten(1, (-1, dim))
        if number < 2:
            pairs = torch.complex(*expected.chunk(2, dim=2)) * turn[:, None]
            expected = torch.cat([pairs.real, pairs.imag], dim=2)
        assert part.is_contiguous()
        check(part, expected, dtype, roundings=3)


SLOTS = {
    "all are kept": [7, 0, 3],
    "the first slot beside skipped rows": [-1, 0, -1, 5],
    "a skipped row last": [11, -1],
    "none is kept": [-1, -7],
    "one kept": [4],
    "one skipped": [-1],
    "no rows": [],
}


@pytest.mark.parametrize("slots", SLOTS.values(), ids=SLOTS)
@pytest.mark.parametrize("index", [torch.int32, torch.int64])
def test_rows_are_written_where_they_belong_and_nowhere_without_a_place(slots, index):
    pages = torch.randn(2, 3, 4, 2, 8)  # k and v, 3 blocks of 4 tokens
    expected = [x.flatten(0, 1).tolist() for x in pages]
    scattered = torch.randn(2, len(slots), 4, 8)[:, :, 1:3]
    TorchOps(torch.float32).append(*pages, torch.tensor(slots, dtype=index), *scattered)
    for cache, rows in zip(expected, scattered, strict=True):
        for slot, row in zip(slots, rows.tolist(), strict=True):
            if slot >= 0:
                cache[slot] = row
    assert [x.flatten(0, 1).tolist() for x in pages] == expected


def test_gelu_is_the_exact_one_and_takes_no_memory():
    x = torch.randn(50, dtype=torch.float64)
    expected = [y * 0.5 * (1 + math.erf(y / math.sqrt(2))) for y in x.tolist()]
    found = TorchOps(x.dtype).gelu(x)
    assert found.data_ptr() == x.data_ptr()
    check(found, torch.tensor(expected, dtype=torch.float64), torch.float64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_kernels_of_our_own_run_on_cuda_devices_alone_and_where_triton_is(dtype, monkeypatch):
    pytest.importorskip("triton")
    assert type(operations(CUDA, dtype)) is TritonOps
    assert type(operations(CPU, dtype)) is TorchOps
    monkeypatch.setattr(elementwise, "kernels", None)
    assert type(operations(CUDA, dtype)) is TorchOps


def test_fp64_stays_exact_on_every_device():
    assert type(operations(CUDA, torch.float64)) is TorchOps
