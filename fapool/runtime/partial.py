"""Attention over a part of the keys, as a commutative monoid.

    shapes:  T query tokens, H heads, D head dim

The textbook two-term update, out = out_a - sigmoid(lse_b - lse_a) * (out_a - out_b), gives NaN
when both parts are empty (inf - inf). The n-ary form below shifts by a finite maximum instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Partial:
    """`out` [T, H, D], softmax-weighted values; `lse` [T, H], natural log-sum-exp of the scores.

    An empty part is (0, -inf). `lse` is fp32 (fp64 beside fp64 values) whatever `out` is.
    """

    out: Tensor
    lse: Tensor


def lse_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of the log-sum-exp beside values of `dtype`."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def empty(
    tokens: int, heads: int, dim: int, *, dtype: torch.dtype, device: torch.device
) -> Partial:
    """The identity: attention over no key at all."""
    return Partial(
        torch.zeros(tokens, heads, dim, dtype=dtype, device=device),
        torch.full((tokens, heads), -torch.inf, dtype=lse_dtype(dtype), device=device),
    )


def merge(parts: Sequence[Partial]) -> Partial:
    """Attention over the union of the parts' keys; same shapes, any order, empty parts harmless.

    out = sum_i exp(lse_i) out_i / sum_i exp(lse_i),  lse = log sum_i exp(lse_i)
    """
    if len(parts) == 1:
        return parts[0]
    first = parts[0]
    lse = torch.stack([part.lse for part in parts])
    top = lse.amax(dim=0)
    shift = torch.where(torch.isneginf(top), 0.0, top)
    weight = torch.exp(lse - shift)
    total = weight.sum(dim=0)
    share = weight / torch.where(total > 0, total, 1.0)
    out = share[0].unsqueeze(-1) * first.out
    for index, part in enumerate(parts[1:], start=1):
        out = torch.addcmul(out, share[index].unsqueeze(-1), part.out.to(out.dtype))
    return Partial(out.to(first.out.dtype), shift + torch.log(total))
