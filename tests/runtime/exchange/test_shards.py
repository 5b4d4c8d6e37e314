"""Messages of partials against the monoid, in torch and by the kernels: on a GPU, and on the CPU
through Triton's interpreter, which has to be asked for before triton is imported.
"""

import pytest
import torch

from fapool.runtime.exchange import shards
from fapool.runtime.exchange.shards import merge_messages, pack, seen
from fapool.runtime.partial import Partial, merge
from tests.runtime.kernels.interpreter import INTERPRETED, interpret

SHAPES = [(1, 4, 8, 4), (3, 6, 24, 3), (5, 2, 16, 2), (2, 10, 128, 5)]  # T, H, D, S
DTYPES = [torch.float64, torch.float32, torch.bfloat16]
KERNEL_DTYPES = [torch.float32, torch.float16]  # the interpreter cuts bf16 off where a GPU rounds
DEVICES = ["cpu"] if INTERPRETED else [pytest.param("cuda", marks=pytest.mark.gpu(1))]
ERROR = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 5e-2}


def drawn(tokens: int, heads: int, dim: int, dtype: torch.dtype, device="cpu") -> Partial:
    """A partial of which the first head and token are empty; lse as strided as kernels give it."""
    out = torch.randn(tokens, heads, dim, device=device).to(dtype)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    lse = 5 * torch.randn(heads, tokens, device=device, dtype=wide).T
    out[0, 0], lse[0, 0] = 0, -torch.inf
    return Partial(out, lse)


def exchanged(parts: list[Partial]) -> list[torch.Tensor]:
    """What every rank has after the exchange, each with the messages of all."""
    packed = [pack(part, len(parts)) for part in parts]
    return [torch.stack([messages[rank] for messages in packed]) for rank in range(len(parts))]


def check(shape, dtype, device="cpu", *, own: bool) -> None:
    tokens, heads, dim, ranks = shape
    parts = [drawn(tokens, heads, dim, dtype, device) for _ in range(ranks)]
    mine = drawn(tokens, heads // ranks, dim, dtype, device) if own else None
    for rank, messages in enumerate(exchanged(parts)):
        heads_of_rank = slice(rank * heads // ranks, (rank + 1) * heads // ranks)
        whole = [Partial(p.out[:, heads_of_rank], p.lse[:, heads_of_rank]) for p in parts]
        exact = [Partial(p.out.double(), p.lse.double()) for p in whole + ([mine] if own else [])]
        found = merge_messages(messages, (tokens, heads // ranks, dim), mine)
        expected = merge(exact).out
        assert found.dtype == dtype
        assert float((found.double() - expected).abs().max()) <= ERROR[dtype]


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("own", [True, False], ids=["and own", "alone"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_rank_merges_its_heads_of_all_partials(shape, dtype, own):
    check(shape, dtype, own=own)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_message_holds_a_partial_bit_by_bit(dtype):
    part = drawn(3, 6, 8, dtype)
    messages = pack(part, 3)
    assert messages.dtype == dtype
    assert messages.nbytes == part.out.nbytes + part.lse.nbytes
    views = seen(messages, (3, 2, 8))
    assert torch.equal(torch.cat(list(views.out), dim=1), part.out)
    assert torch.equal(torch.cat(list(views.lse), dim=1), part.lse)


def test_rows_that_lie_nowhere_come_out_as_zero():
    nothing = Partial(torch.zeros(2, 4, 8), torch.full((2, 4), -torch.inf))
    (messages, _) = exchanged([nothing, nothing])
    assert torch.equal(merge_messages(messages, (2, 2, 8)), torch.zeros(2, 2, 8))


if not INTERPRETED:

    def test_the_interpreter_finds_the_kernels_equal_to_the_monoid():
        pytest.importorskip("triton")
        interpret(__file__, "-k", "kernel")


@pytest.mark.parametrize("own", [True, False], ids=["and own", "alone"])
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", KERNEL_DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_kernels_merge_the_heads_of_all_partials(monkeypatch, shape, dtype, device, own):
    monkeypatch.setattr(shards, "_fused", lambda messages: True)
    check(shape, dtype, device, own=own)


@pytest.mark.parametrize("device", DEVICES)
def test_kernels_read_heads_out_of_wider_rows(monkeypatch, device):
    """As a slice of the heads comes out of a causal kernel: strides of a larger tensor."""
    part = drawn(3, 8, 16, torch.float32, device)
    narrow = Partial(part.out[:, 2:6], part.lse[:, 2:6])
    expected = pack(narrow, 2)
    own = Partial(part.out[:, 1:3], part.lse[:, 1:3])
    merged = merge_messages(expected, (3, 2, 16), own)
    monkeypatch.setattr(shards, "_fused", lambda messages: True)
    assert torch.equal(pack(narrow, 2), expected)
    torch.testing.assert_close(merge_messages(expected, (3, 2, 16), own), merged)
