"""The items of a row merged into one partial.

    shapes:  B rows, H heads, D dim, I items, C items at a time

`absorb` and `settle` are the monoid of fapool/runtime/partial.py on a program's own head, for any
kernel that merges partials, wherever they come from: lse in natural log, empty parts (0, -inf).
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

MANY = 64
"""Items per row from which on a program takes many at once; few rows have so many."""


@triton.jit
def nothing(D: tl.constexpr):
    """What has absorbed no partial: maximum of lse, sum of weights, weighted values [D]."""
    top = tl.full([], float("-inf"), tl.float32)
    return top, tl.full([], 0.0, tl.float32), tl.zeros([D], tl.float32)


@triton.jit
def absorb(top, total, acc, out, lse):
    """Take partials out [C, D], lse [C] in; values where lse is -inf must be finite."""
    high = tl.maximum(top, tl.max(lse, axis=0))
    shift = tl.where(high == float("-inf"), 0.0, high)
    kept = tl.exp(top - shift)
    weight = tl.exp(lse - shift)
    total = total * kept + tl.sum(weight, axis=0)
    acc = acc * kept + tl.sum(weight[:, None] * out, axis=0)
    return high, total, acc


@triton.jit
def absorb_items(
    top, total, acc, OUT, LSE, begin, end, head, H: tl.constexpr, D: tl.constexpr, C: tl.constexpr
):
    """Take items [begin, end) of one head, out [I, H, D] and lse [I, H]."""
    dim = tl.arange(0, D)
    for at in range(begin, end, C):
        item = at + tl.arange(0, C)
        inside = item < end
        place = item.to(tl.int64) * H + head
        lse = tl.load(LSE + place, mask=inside, other=float("-inf"))
        out = tl.load(OUT + place[:, None] * D + dim[None, :], mask=inside[:, None], other=0.0)
        top, total, acc = absorb(top, total, acc, out, lse)
    return top, total, acc


@triton.jit
def settle(top, total, acc):
    """The partial of all that was absorbed: out [D], lse; (0, -inf) if it was nothing."""
    some = total > 0
    out = acc / tl.where(some, total, 1.0)
    lse = tl.where(some, top + tl.log(tl.where(some, total, 1.0)), float("-inf"))
    return out, lse


@triton.jit(do_not_specialize=["row_stride"], do_not_specialize_on_alignment=["FIRST"])
def _combine(
    ITEM_OUT, ITEM_LSE, FIRST, OUT, LSE, row_stride, H: tl.constexpr, D: tl.constexpr,
    C: tl.constexpr,
):  # fmt: skip
    head, row = tl.program_id(0), tl.program_id(1)
    begin, end = tl.load(FIRST + row), tl.load(FIRST + row + 1)
    top, total, acc = nothing(D)
    top, total, acc = absorb_items(top, total, acc, ITEM_OUT, ITEM_LSE, begin, end, head, H, D, C)
    out, lse = settle(top, total, acc)
    at = OUT + row.to(tl.int64) * row_stride + head * D + tl.arange(0, D)
    tl.store(at, out.to(OUT.dtype.element_ty))
    tl.store(LSE + row.to(tl.int64) * H + head, lse)


def shape_of(rows: int, items: int) -> tuple[int, int]:
    """(items that a program takes at a time, its warps) for `items` of `rows` rows."""
    return (128, 8) if items >= MANY * rows else (8, 1)


def combine(item_out: Tensor, item_lse: Tensor, first: Tensor, out: Tensor, lse: Tensor) -> None:
    """Merge item_out [I, H, D], item_lse [I, H] into out [B, H, D] (any dtype), lse [B, H] fp32.

    Row b has the items first[b] .. first[b + 1]; a row without any gets (0, -inf).
    """
    rows, heads, dim = out.shape
    at_once, warps = shape_of(rows, len(item_lse))
    _combine[(heads, rows)](
        item_out, item_lse, first, out, lse, out.stride(0),
        H=heads, D=dim, C=at_once, num_warps=warps,
    )  # fmt: skip
