"""Up to four partials merged in one pass over memory.

shapes:  T tokens, H heads, D head dim; `out` [T, H, D] contiguous, `lse` [T, H] of any strides
"""

from __future__ import annotations

import triton
import triton.language as tl

TOKENS = 32


@triton.jit
def _lse(lse, at, inside, there: tl.constexpr):
    """That of a part, or of an empty one in its place."""
    empty = tl.full(at.shape, -float("inf"), tl.float32)
    return tl.load(lse + at, mask=inside, other=-float("inf")) if there else empty


@triton.jit
def _add(acc, out, at, written, share):
    """A part's values, weighted."""
    return acc + tl.load(out + at, mask=written, other=0.0).to(tl.float32) * share[:, None]


@triton.jit
def merge_rows(
    out0, out1, out2, out3,
    lse0, lse1, lse2, lse3,
    t0, h0, t1, h1, t2, h2, t3, h3,  # strides of lse
    num_tokens, num_heads,
    PARTS: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr, TOKENS: tl.constexpr,
):  # fmt: skip
    """Parts 0 .. PARTS-1 into part 0, in place; grid (H, T / TOKENS); WIDTH = D rounded up."""
    head = tl.program_id(0)
    rows = tl.program_id(1) * TOKENS + tl.arange(0, TOKENS)
    dims = tl.arange(0, WIDTH)
    inside = rows < num_tokens
    written = inside[:, None] & (dims[None, :] < D)
    at = (rows.to(tl.int64) * num_heads + head)[:, None] * D + dims[None, :]
    l0 = _lse(lse0, rows * t0 + head * h0, inside, PARTS > 0)
    l1 = _lse(lse1, rows * t1 + head * h1, inside, PARTS > 1)
    l2 = _lse(lse2, rows * t2 + head * h2, inside, PARTS > 2)
    l3 = _lse(lse3, rows * t3 + head * h3, inside, PARTS > 3)
    top = tl.maximum(tl.maximum(l0, l1), tl.maximum(l2, l3))
    shift = tl.where(top == -float("inf"), 0.0, top)
    w0, w1, w2, w3 = tl.exp(l0 - shift), tl.exp(l1 - shift), tl.exp(l2 - shift), tl.exp(l3 - shift)
    total = w0 + w1 + w2 + w3
    share = 1.0 / tl.where(total > 0, total, 1.0)
    acc = tl.zeros([TOKENS, WIDTH], tl.float32)
    acc = _add(acc, out0, at, written, w0 * share)
    if PARTS > 1:
        acc = _add(acc, out1, at, written, w1 * share)
    if PARTS > 2:
        acc = _add(acc, out2, at, written, w2 * share)
    if PARTS > 3:
        acc = _add(acc, out3, at, written, w3 * share)
    tl.store(out0 + at, acc.to(out0.dtype.element_ty), mask=written)
    tl.store(lse0 + rows * t0 + head * h0, shift + tl.log(total), mask=inside)
