"""Partials written into messages and merged from them, in one kernel each.

    shapes:  T tokens, S messages, H heads of a message, D head dim

Messages are given as views, out [S, T, H, D] and lse [S, T, H] fp32, dense but for their first
stride.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def pack_rows(
    OUT, LSE, TO_OUT, TO_LSE,
    out_t, out_h, lse_t, lse_h, to_out_s, to_lse_s,  # strides
    H: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """out [T, S H, D], lse [T, S H] into S messages; grid (T, S H); WIDTH = D rounded up."""
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    message, place = (head // H).to(tl.int64), row * H + head % H
    dims = tl.arange(0, WIDTH)
    values = tl.load(OUT + row * out_t + head * out_h + dims, mask=dims < D)
    to = TO_OUT + message * to_out_s + place * D + dims
    tl.store(to, values.to(TO_OUT.dtype.element_ty), mask=dims < D)
    lse = tl.load(LSE + row * lse_t + head * lse_h)
    tl.store(TO_LSE + message * to_lse_s + place, lse)


@triton.jit
def merge_rows(
    OUT, LSE, OWN_OUT, OWN_LSE, TO,
    out_s, lse_s, own_t, own_h, own_lse_t, own_lse_h,  # strides
    S: tl.constexpr, H: tl.constexpr, D: tl.constexpr, OWN: tl.constexpr,
    MESSAGES: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """S messages, with OWN one more partial, into TO [T, H, D]; grid (T, H); sizes rounded up."""
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    place, dims = row * H + head, tl.arange(0, WIDTH)
    message = tl.arange(0, MESSAGES).to(tl.int64)
    some, kept = message < S, dims < D
    lse = tl.load(LSE + message * lse_s + place, mask=some, other=float("-inf"))
    top = tl.max(lse, axis=0)
    if OWN:
        own_lse = tl.load(OWN_LSE + row * own_lse_t + head * own_lse_h)
        top = tl.maximum(top, own_lse)
    shift = tl.where(top == float("-inf"), 0.0, top)
    weight = tl.exp(lse - shift)
    total = tl.sum(weight, axis=0)
    at = OUT + message[:, None] * out_s + place * D + dims[None, :]
    values = tl.load(at, mask=some[:, None] & kept[None, :], other=0.0).to(tl.float32)
    acc = tl.sum(weight[:, None] * values, axis=0)
    if OWN:
        own = tl.load(OWN_OUT + row * own_t + head * own_h + dims, mask=kept, other=0.0)
        own_weight = tl.exp(own_lse - shift)
        total += own_weight
        acc += own_weight * own.to(tl.float32)
    result = acc / tl.where(total > 0, total, 1.0)
    tl.store(TO + place * D + dims, result.to(TO.dtype.element_ty), mask=kept)
