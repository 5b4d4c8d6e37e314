"""Partials merged in place: one fused kernel on GPUs where Triton is, torch elsewhere.

shapes:  T query tokens, H heads, D head dim
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fapool.runtime.partial import Partial, merge

try:
    import triton

    from fapool.runtime.sequence import merge_kernel
except ImportError:
    triton = None

AT_ONCE = 4
"""Parts that the kernel takes."""


def merge_into(first: Partial, others: Sequence[Partial]) -> None:
    """`first` becomes attention over the union of all parts' keys; same shapes, `first` in place.

    `first.out` [T, H, D] has to be contiguous.
    """
    if not others or not first.out.shape[0]:
        return
    if triton is None or not first.out.is_cuda or first.out.dtype == torch.float64:
        merged = merge([first, *others])
        first.out.copy_(merged.out)
        first.lse.copy_(merged.lse)
        return
    step = AT_ONCE - 1
    for start in range(0, len(others), step):
        fused(first, others[start : start + step])


def fused(first: Partial, others: Sequence[Partial]) -> None:
    """`merge_into` by the kernel, for at most AT_ONCE parts."""
    assert first.out.is_contiguous() and len(others) < AT_ONCE
    parts = [first, *(Partial(part.out.contiguous(), part.lse) for part in others)]
    padded = parts + [first] * (AT_ONCE - len(parts))
    tokens, heads, dim = first.out.shape
    grid = (heads, triton.cdiv(tokens, merge_kernel.TOKENS))
    merge_kernel.merge_rows[grid](
        *(part.out for part in padded),
        *(part.lse for part in padded),
        *(stride for part in padded for stride in part.lse.stride()),
        tokens,
        heads,
        PARTS=len(parts),
        D=dim,
        WIDTH=triton.next_power_of_2(dim),
        TOKENS=merge_kernel.TOKENS,
    )
