"""Every kernel against softmax written out in fp64, whatever the heads, lengths and blocks."""

import pytest
import torch

from fapool.errors import SpecError
from fapool.runtime.attention import BACKENDS, choose
from fapool.runtime.attention.base import causal, over
from fapool.runtime.kvcache import KVCache
from fapool.runtime.partial import merge
from fapool.spec.run import ON_GPUS
from tests.runtime.kernels.interpreter import INTERPRETED

CUDA = pytest.mark.gpu(1)
HERE = [
    ("reference", torch.float64),
    ("reference", torch.bfloat16),
    ("cpu", torch.float64),
    ("cpu", torch.float32),
    ("cpu", torch.bfloat16),
    ("cpu", torch.float16),
    pytest.param("aten", torch.bfloat16, marks=CUDA),
    pytest.param("cudnn", torch.bfloat16, marks=CUDA),
    pytest.param("cudnn_tiled", torch.bfloat16, marks=CUDA),
    pytest.param("flash_attn", torch.bfloat16, marks=CUDA),
    pytest.param("flash_attn", torch.float16, marks=CUDA),
]
HEADS = [(4, 4), (8, 2), (6, 1)]  # MHA, GQA, MQA
DIM = 64
ERROR = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3}


def written_out(q, k, v, visible) -> tuple[torch.Tensor, torch.Tensor]:
    """out [T, H, D], lse [T, H] in fp64; query t sees keys [0, visible[t])."""
    q, k, v = (x.double().cpu() for x in (q, k, v))
    group = q.shape[1] // k.shape[1]
    out, lse = torch.empty_like(q), torch.empty(q.shape[:2], dtype=torch.float64)
    for t, keys in enumerate(visible):
        for head in range(q.shape[1]):
            kv = head // group
            weight = torch.exp(k[:keys, kv] @ q[t, head] / q.shape[2] ** 0.5)
            lse[t, head] = weight.sum().log()
            out[t, head] = weight @ v[:keys, kv] / weight.sum()
    return out, lse


def check(part, q, k, v, visible) -> None:
    out, lse = written_out(q, k, v, visible)
    error = (part.out.double().cpu() - out).norm() / out.norm()
    assert error < ERROR[q.dtype]
    half = q.dtype in (torch.bfloat16, torch.float16)
    assert part.lse.dtype == (torch.float64 if q.dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(part.lse.double().cpu(), lse, rtol=0, atol=1e-4 if half else 1e-5)


@pytest.mark.skipif(INTERPRETED, reason="triton fits the CPU where it interprets")
def test_a_spec_knows_which_of_them_no_cpu_runs():
    where = {"device": torch.device("cpu"), "dtype": torch.bfloat16, "head_dim": DIM}
    assert {name for name, backend in BACKENDS.items() if backend.unfit(**where)} == set(ON_GPUS)


def fit(name: str, dtype: torch.dtype):
    """(backend, device), or a skip that says what is missing."""
    backend = BACKENDS[name]
    device = torch.device("cpu" if name in ("cpu", "reference") else "cuda")
    if why := backend.unfit(device=device, dtype=dtype, head_dim=DIM):
        pytest.skip(f"{name} {why}")
    return backend, device


def drawn(dtype, device, *shape) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64).to(dtype).to(device)


def cached(lengths: list[int], kv_heads: int, dtype, device, *, block: int = 256):
    """A cache whose every other request has gone, with keys for `lengths`; (cache, rows, k, v)."""
    blocks = [-(-length // block) for length in lengths]
    cache = KVCache(
        layers=range(1),
        blocks=2 * sum(blocks),
        block_tokens=block,
        kv_heads=kv_heads,
        head_dim=DIM,
        dtype=dtype,
        device=device,
    )
    for i, number in enumerate(blocks):
        cache.reserve(i, 1)
        cache.reserve(100 + i, number - 1 or 1)
    for i, number in enumerate(blocks):
        cache.free(i)
        cache.reserve(200 + i, number)
    ks, vs = [], []
    for i, length in enumerate(lengths):
        k, v = (drawn(dtype, device, length, kv_heads, DIM) for _ in "kv")
        slots = torch.tensor(cache.slots(200 + i, range(length)), device=device)
        cache.append(0, slots, k, v)
        ks.append(k)
        vs.append(v)
    return cache, cache.rows([200 + i for i in range(len(lengths))], lengths), ks, vs


@pytest.mark.parametrize(("name", "dtype"), HERE)
@pytest.mark.parametrize(("heads", "kv_heads"), HEADS)
@pytest.mark.parametrize("tokens", [1, 2, 37])
def test_a_chunk_over_itself_is_causal(name, dtype, heads, kv_heads, tokens):
    backend, device = fit(name, dtype)
    torch.manual_seed(tokens)
    q = drawn(dtype, device, tokens, heads, DIM)
    k, v = (drawn(dtype, device, tokens, kv_heads, DIM) for _ in "kv")
    check(causal(backend, q, k, v), q, k, v, range(1, tokens + 1))


@pytest.mark.parametrize(("name", "dtype"), HERE)
@pytest.mark.parametrize(("heads", "kv_heads"), HEADS)
def test_one_query_each_over_uneven_lengths_sees_all_of_its_own_keys(name, dtype, heads, kv_heads):
    backend, device = fit(name, dtype)
    torch.manual_seed(1)
    lengths = [1, 256, 700, 255, 257, 257]
    cache, rows, ks, vs = cached(lengths, kv_heads, dtype, device)
    q = drawn(dtype, device, len(lengths), 1, heads, DIM)
    part = over(backend, q, cache.view(0, rows))
    for row, length in enumerate(lengths):
        at = slice(row, row + 1)
        one = type(part)(part.out[at], part.lse[at])
        check(one, q[row], ks[row], vs[row], [length])


@pytest.mark.parametrize(("name", "dtype"), HERE)
@pytest.mark.parametrize(("heads", "kv_heads"), HEADS)
def test_a_chunk_and_its_past_merge_to_causal_attention(name, dtype, heads, kv_heads):
    backend, device = fit(name, dtype)
    torch.manual_seed(2)
    past, chunk = 300, 19
    cache, rows, (k,), (v,) = cached([past], kv_heads, dtype, device)
    q = drawn(dtype, device, chunk, heads, DIM)
    new_k, new_v = (drawn(dtype, device, chunk, kv_heads, DIM) for _ in "kv")
    before = over(backend, q[None], cache.view(0, rows))
    check(before, q, k, v, [past] * chunk)
    part = merge([causal(backend, q, new_k, new_v), before])
    keys, values = torch.cat([k, new_k]), torch.cat([v, new_v])
    check(part, q, keys, values, range(past + 1, past + chunk + 1))


@pytest.mark.parametrize("block", [1, 7, 16])
def test_small_blocks_are_read_like_large_ones(block):
    torch.manual_seed(3)
    lengths = [1, 6, 7, 8, 33]
    cache, rows, ks, vs = cached(lengths, 2, torch.float64, torch.device("cpu"), block=block)
    q = drawn(torch.float64, "cpu", len(lengths), 1, 4, DIM)
    part = over(BACKENDS["cpu"], q, cache.view(0, rows))
    for row, length in enumerate(lengths):
        out, _ = written_out(q[row], ks[row], vs[row], [length])
        torch.testing.assert_close(part.out[row : row + 1], out)


WHERE = {"device": torch.device("cpu"), "dtype": torch.bfloat16, "head_dim": DIM}


@pytest.mark.parametrize(
    ("name", "why"), [("aten", "CUDA"), ("cudnn", "CUDA"), ("flash_attn", "CUDA")]
)
def test_a_backend_that_cannot_run_here_is_refused_by_field_value_and_way_out(name, why):
    with pytest.raises(SpecError, match=rf"backend = '{name}': .*{why}.*; choose auto"):
        choose(name, **WHERE)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_what_auto_takes_fits(dtype):
    backends = choose("auto", **(WHERE | {"dtype": dtype}))
    for backend in (backends.prefill, backends.decode):
        assert backend.unfit(**(WHERE | {"dtype": dtype})) is None


def test_a_named_backend_serves_both_phases():
    backends = choose("reference", **WHERE)
    assert (backends.prefill.name, backends.decode.name) == ("reference", "reference")
