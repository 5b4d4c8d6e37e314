"""Our kernels against the torch forms: on a GPU, and on the CPU through Triton's interpreter.

The interpreter has to be asked for before triton is imported, so it has a process of its own.
"""

import pytest
import torch

from fapool.runtime.elementwise import TorchOps, TritonOps
from tests.runtime.kernels.interpreter import INTERPRETED, interpret

pytest.importorskip("triton")

DEVICES = ["cpu"] if INTERPRETED else [pytest.param("cuda", marks=pytest.mark.gpu(1))]
# The interpreter cuts bf16 off where a GPU rounds it.
DTYPES = [torch.float32, torch.float16] if INTERPRETED else [torch.float32, torch.bfloat16]
# Norms differ by the order of a sum in fp32, so by one rounding of the result.
ERROR = {torch.float32: 2e-6, torch.bfloat16: 2**-7, torch.float16: 2**-10}
TOKENS = [1, 3] if INTERPRETED else [1, 3, 64, 1000]
HEADS = [(1, 4, 4, 8), (5, 6, 1, 32), (18, 4, 2, 24), (259, 2, 1, 8)]  # T, H, K, D: all tiles
HEADS += [] if INTERPRETED else [(t, 32, k, 128) for t in (1, 64, 1000) for k in (32, 8, 1)]

on_devices = pytest.mark.parametrize("device", DEVICES)
in_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


if not INTERPRETED:

    def test_the_interpreter_finds_the_kernels_equal_to_the_torch_forms():
        interpret(__file__)


@on_devices
@in_dtypes
@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("width", [24, 256, 4096])
@pytest.mark.parametrize("adds", [True, False], ids=["sum", "plain"])
def test_sums_are_equal_and_their_norms_close(device, dtype, tokens, width, adds):
    x, delta = torch.randn(2, tokens, width, device=device).to(dtype)
    gain = torch.randn(width, device=device).to(dtype)
    delta = delta if adds else None
    total, normed = TritonOps(dtype).add_norm(x, delta, gain, 1e-6)
    expected_total, expected = TorchOps(dtype).add_norm(x, delta, gain, 1e-6)
    assert torch.equal(total, expected_total)
    assert normed.dtype == dtype
    torch.testing.assert_close(normed, expected, rtol=ERROR[dtype], atol=ERROR[dtype])


@on_devices
@in_dtypes
@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("half", [4, 12, 64])
@pytest.mark.parametrize("index", [torch.int32, torch.int64], ids=str)
def test_angles_are_those_of_fp64(device, dtype, tokens, half, index):
    positions = torch.randint(2**20, (tokens,), dtype=index, device=device)
    frequencies = torch.rand(half, dtype=torch.float64, device=device)
    found = TritonOps(dtype).rotation(positions, frequencies)
    expected = TorchOps(dtype).rotation(positions, frequencies)
    assert all(map(torch.equal, found, expected))


@on_devices
@in_dtypes
@pytest.mark.parametrize(("tokens", "heads", "kv_heads", "dim"), HEADS)
def test_rotations_are_equal_to_the_last_bit(device, dtype, tokens, heads, kv_heads, dim):
    qkv = torch.randn(tokens, (heads + 2 * kv_heads) * dim, device=device).to(dtype)
    cos, sin = torch.rand(2, tokens, dim // 2, device=device).mul(2).sub(1).to(dtype)
    parts = TritonOps(dtype).rotate(qkv, cos, sin, heads, kv_heads)
    expected = TorchOps(dtype).rotate(qkv, cos, sin, heads, kv_heads)
    assert all(map(torch.equal, parts, expected))
    assert all(part.is_contiguous() for part in parts)


@on_devices
@in_dtypes
@pytest.mark.parametrize("index", [torch.int32, torch.int64], ids=str)
@pytest.mark.parametrize("slots", [[5], [-1], [7, -1, 0, 11, -3], [-1, 3]], ids=str)
@pytest.mark.parametrize(("kv_heads", "dim"), [(1, 8), (3, 24), (32, 40)])
def test_the_same_rows_of_the_cache_change(device, dtype, index, slots, kv_heads, dim):
    pages = torch.randn(2, 3, 4, kv_heads, dim, device=device).to(dtype)
    wider = torch.randn(2, len(slots), kv_heads + 2, dim, device=device).to(dtype)
    at = torch.tensor(slots, dtype=index, device=device)
    found, expected = pages.clone(), pages.clone()
    TritonOps(dtype).append(*found, at, *wider[:, :, 1:-1])
    TorchOps(dtype).append(*expected, at, *wider[:, :, 1:-1])
    assert torch.equal(found, expected)


@pytest.mark.skipif(INTERPRETED, reason="what is interpreted cannot be captured")
@pytest.mark.gpu(1)
def test_every_operation_can_be_captured_and_follows_its_inputs():
    dtype, device, positions = torch.bfloat16, "cuda", torch.arange(5, device="cuda")
    x, delta = torch.randn(2, 5, 64, device=device).to(dtype)
    qkv, gain = torch.randn(5, 64, device=device).to(dtype), torch.ones(64, device=device).to(dtype)
    pages = torch.zeros(2, 2, 4, 2, 8, device=device, dtype=dtype)
    slots, frequencies = positions.clone(), torch.rand(4, device=device).double()

    def chain(ops, pages):
        total, normed = ops.add_norm(x, delta, gain, 1e-6)
        q, k, v = ops.rotate(qkv, *ops.rotation(positions, frequencies), 4, 2)
        ops.append(*pages, slots, k, v)
        return total, ops.gelu(normed), q

    for ops in (TritonOps(dtype), TorchOps(dtype)):
        chain(ops, pages)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            found = chain(ops, pages)
        for fresh in (x, delta, qkv):
            fresh.normal_()
        positions.random_(2**17)
        slots.copy_(torch.tensor([-1, 7, 2, -1, 0]))
        pages.zero_()
        expected_pages = torch.zeros_like(pages)
        graph.replay()
        for out, expected in zip(found, chain(TorchOps(dtype), expected_pages), strict=True):
            torch.testing.assert_close(out, expected, rtol=ERROR[dtype], atol=ERROR[dtype])
        assert torch.equal(pages, expected_pages)
