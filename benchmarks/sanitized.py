"""What `sanitize.py` runs: every kernel at sizes that fit nothing, against fp64 on the CPU.

shapes:  B rows, T tokens, E inputs, O outputs, H heads, K KV heads, D head dim, N blocks,
         P tokens of a block
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import inf

import torch
import torch.nn.functional as F
from torch import Tensor

from fapool.runtime.attention.triton import Triton
from fapool.runtime.elementwise import TorchOps
from fapool.runtime.exchange.shards import merge_messages, pack
from fapool.runtime.kernels import elementwise
from fapool.runtime.kernels.linear import Form, linear
from fapool.runtime.partial import Partial, merge
from fapool.runtime.rows import KVView, Rows
from fapool.runtime.sequence.merging import fused

Case = Callable[[torch.device], dict]
HALF = torch.bfloat16
LIMIT = {torch.float32: 1e-5, HALF: 1e-2}


def worst(pairs: list[tuple[Tensor, Tensor]], limit: float) -> dict:
    """The largest error of found, expected; relative to the largest value expected."""
    error = 0.0
    for found, expected in pairs:
        found, expected = found.double().cpu(), expected.double()
        assert found.shape == expected.shape
        scale = expected.nan_to_num(posinf=0.0, neginf=0.0).abs().max().clamp(min=1e-3)
        off = torch.where(found == expected, 0.0, (found - expected).abs() / scale)
        error = max(error, float(off.nan_to_num(nan=inf).max()))
    return {"error": error, "limit": limit}


def same(found: Tensor, expected: Tensor) -> tuple[Tensor, Tensor]:
    """For `worst`: bytes that have to be alike."""
    bits = [x.cpu().contiguous().view(torch.uint8) for x in (found, expected)]
    return (bits[0] == bits[1]).double(), torch.ones(bits[1].shape)


def draw(*shape: int, dtype: torch.dtype = HALF) -> Tensor:
    """Normal, on the CPU."""
    return torch.randn(*shape).to(dtype)


def attended(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """q [H, D], k and v [S, K, D] -> out [H, D], lse [H] in fp64; S may be 0."""
    group = q.shape[0] // k.shape[1]
    k, v = (x.double().repeat_interleave(group, dim=1) for x in (k, v))
    scores = torch.einsum("hd,shd->hs", q.double(), k) * q.shape[1] ** -0.5
    return torch.einsum("hs,shd->hd", scores.softmax(1), v), scores.logsumexp(1)


def decode(
    heads: int, kv_heads: int, dim: int, block: int, lengths: tuple[int, ...], device: torch.device,
    dtype: torch.dtype = HALF,
) -> dict:  # fmt: skip
    """Decode and combine: scattered blocks, some rows empty, the last block the cache's end."""
    counts = [-(-n // block) for n in lengths]
    numbers = torch.arange(sum(counts)).flip(0).tolist()
    blocks = tuple(tuple(numbers.pop() for _ in range(n)) for n in counts)
    pages = [draw(sum(counts), block, kv_heads, dim, dtype=dtype) for _ in "kv"]
    q = draw(len(lengths), 1, heads, dim, dtype=dtype)
    rows = Rows(blocks, lengths, block, device)
    out, lse = Triton().paged(q.to(device), KVView(*(x.to(device) for x in pages), rows))
    expected = []
    for row, (held, length) in enumerate(zip(blocks, lengths, strict=True)):
        k, v = (x[list(held)].flatten(0, 1)[:length] for x in pages)
        expected.append(attended(q[row, 0], k, v))
    outs, lses = (torch.stack(x) for x in zip(*expected, strict=True))
    return worst([(out[:, 0], outs), (lse[:, :, 0], lses)], LIMIT[dtype])


def add_norm(width: int, adds: bool, device: torch.device) -> dict:
    """Rows of `width`; with and without an addend."""
    x, delta, gain = draw(3, width), draw(3, width) if adds else None, draw(width)
    total, normed = elementwise.add_norm(
        x.to(device), delta if delta is None else delta.to(device), gain.to(device), 1e-6
    )
    added = x if delta is None else x + delta
    expected = F.rms_norm(added.double(), (width,), gain.double(), 1e-6)
    return worst([(total, added), (normed, expected)], LIMIT[HALF])


def rotate(tokens: int, heads: int, kv_heads: int, dim: int, device: torch.device) -> dict:
    """Angles, then heads turned by them."""
    ops, positions = TorchOps(HALF), torch.arange(1, tokens + 1) * 4001
    frequencies = 1e4 ** -(torch.arange(dim // 2).double() / (dim // 2))
    qkv = draw(tokens, (heads + 2 * kv_heads) * dim)
    found = elementwise.rotation(positions.to(device), frequencies.to(device), HALF)
    expected = ops.rotation(positions, frequencies)
    turned = elementwise.rotate(qkv.to(device), *found, heads, kv_heads)
    wanted = ops.rotate(qkv.double(), *(x.double() for x in expected), heads, kv_heads)
    return worst(list(zip((*found, *turned), (*expected, *wanted), strict=True)), 2 * LIMIT[HALF])


def append(width: tuple[int, int], device: torch.device) -> dict:
    """Scattered slots, the cache's last among them, and one that writes nothing."""
    pages, new = [draw(3, 16, *width) for _ in "kv"], [draw(4, *width) for _ in "kv"]
    slots = torch.tensor([47, -1, 0, 17], dtype=torch.int32)
    there = [x.to(device) for x in pages]
    elementwise.append(*there, slots.to(device), *(x.to(device) for x in new))
    for cache, x in zip(pages, new, strict=True):
        cache.view(-1, *width)[slots[slots >= 0].long()] = x[slots >= 0]
    return worst(list(zip(there, pages, strict=True)), LIMIT[HALF])


def product(
    tokens: int, inputs: int, outputs: int, form: Form, device: torch.device, *,
    gelu: bool = False, dtype: torch.dtype = HALF,
) -> dict:  # fmt: skip
    """A few rows times weights, cut as `form` says."""
    x, w = draw(tokens, inputs), draw(outputs, inputs) * inputs**-0.5
    out = torch.empty(tokens, outputs, dtype=dtype, device=device)
    linear(x.to(device), w.to(device), out, form, gelu=gelu)
    expected = x.double() @ w.double().T
    return worst([(out, F.gelu(expected) if gelu else expected)], LIMIT[dtype])


def partials(number: int, tokens: int, heads: int, dim: int) -> list[Partial]:
    """Random ones; a token of each is empty, one in all."""
    found = [Partial(draw(tokens, heads, dim), torch.randn(tokens, heads)) for _ in range(number)]
    for index, part in enumerate(found):
        for token in (0, 1 + index):
            part.out[token], part.lse[token] = 0, -inf
    return found


def wide(part: Partial) -> Partial:
    """In fp64."""
    return Partial(part.out.double(), part.lse.double())


def moved(part: Partial, device: torch.device) -> Partial:
    """On `device`."""
    return Partial(part.out.to(device), part.lse.to(device))


def merge_in_place(number: int, dim: int, device: torch.device) -> dict:
    """The kernel of sharded prefill."""
    parts = partials(number, 35, 3, dim)
    expected = merge([wide(part) for part in parts])
    there = [moved(part, device) for part in parts]
    fused(there[0], there[1:])
    return worst([(there[0].out, expected.out), (there[0].lse, expected.lse)], LIMIT[HALF])


def shards(ranks: int, dim: int, device: torch.device) -> dict:
    """Partials into messages, and messages into what one rank gets."""
    part, own = partials(2, 5, 2 * ranks, dim)
    own = Partial(*(x[:, :2].contiguous() for x in (own.out, own.lse)))
    messages = pack(moved(part, device), ranks)
    merged = merge_messages(messages, (5, 2, dim), moved(own, device))
    pieces = [
        Partial(*(x.unflatten(1, (ranks, 2))[:, i].double() for x in (part.out, part.lse)))
        for i in range(ranks)
    ]
    expected = merge([*pieces, wide(own)]).out
    return worst([same(messages, pack(part, ranks)), (merged, expected)], LIMIT[HALF])


STRIPS = Form(rows=4, depth=1024, stages=1, warps=4, tokens=1)
TWO = Form(rows=2, depth=1024, stages=1, warps=4, tokens=2)
TILES = Form(rows=64, depth=128, stages=4, warps=4, tokens=16)
PARTS = Form(rows=64, depth=128, stages=4, warps=8, tokens=32, parts=2)
UNEVEN = (33, 0, 1, 16, 150)
CASES: dict[str, Case] = {
    "decode MHA": partial(decode, 4, 4, 128, 256, (513, 0, 1, 256)),
    "decode GQA 3": partial(decode, 6, 2, 64, 16, UNEVEN),
    "decode MQA, odd blocks": partial(decode, 20, 1, 128, 48, UNEVEN),
    "decode 256 dims, fp32": partial(decode, 2, 1, 256, 16, (40, 3), dtype=torch.float32),
    "decode, nothing anywhere": partial(decode, 2, 2, 32, 16, (0, 0)),
    "add_norm": partial(add_norm, 1000, True),
    "norm alone": partial(add_norm, 4096, False),
    "rotate": partial(rotate, 21, 3, 1, 24),
    "rotate, one token": partial(rotate, 1, 4, 4, 128),
    "append": partial(append, (3, 24)),
    "strips": partial(product, 1, 1024, 75, STRIPS),
    "strips of two, fp32": partial(product, 2, 1024, 75, TWO, dtype=torch.float32),
    "tiles, GELU": partial(product, 11, 256, 75, TILES, gelu=True),
    "parts, GELU": partial(product, 17, 512, 75, PARTS, gelu=True),
    "merge 2 in place": partial(merge_in_place, 2, 24),
    "merge 4 in place": partial(merge_in_place, 4, 128),
    "shards of 3": partial(shards, 3, 24),
}
PLANTED = "append beyond the end"


def planted(device: torch.device) -> dict:
    """A mistake that a memory checker has to see: a slot behind the last."""
    pages = [torch.zeros(1, 16, 1, 64, device=device) for _ in "kv"]
    new, slots = torch.ones(1, 1, 64, device=device), torch.tensor([16], dtype=torch.int32)
    elementwise.append(*pages, slots.to(device), new, new)
    return worst([(x, torch.zeros(x.shape)) for x in pages], inf)
