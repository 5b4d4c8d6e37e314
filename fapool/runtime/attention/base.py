"""What a kernel for partial attention has to offer, and how a batch is put to it.

    shapes:  B requests, Q query tokens of each, H heads, K KV heads (K divides H), S keys, D dim

Backends disagree on empty input (lse = +inf, lse = 0, a dead process), so no kernel is ever
called without keys. They disagree on the causal mask where Q != S, so `causal` implies Q = S.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from fapool.runtime.kvcache import KVView
from fapool.runtime.partial import Partial, lse_dtype


class Backend(Protocol):
    """One attention kernel."""

    name: str

    def unfit(self, *, device: torch.device, dtype: torch.dtype, head_dim: int) -> str | None:
        """Why it cannot run there; None if it can."""

    def dense(self, q: Tensor, k: Tensor, v: Tensor, *, causal: bool) -> tuple[Tensor, Tensor]:
        """q [B, Q, H, D], k and v [B, S, K, D], S >= 1 -> out [B, Q, H, D], lse [B, H, Q]."""


class PagedBackend(Backend, Protocol):
    """A kernel that reads blocks in place, with lengths of its own for every request."""

    def paged(self, q: Tensor, view: KVView) -> tuple[Tensor, Tensor] | None:
        """q [B, Q, H, D], lengths >= 1 -> out, lse as `dense`; None if the blocks do not suit."""


def causal(backend: Backend, q: Tensor, k: Tensor, v: Tensor) -> Partial:
    """A chunk on itself: q [T, H, D], k and v [T, K, D]; token t sees keys 0..t."""
    return _flat(*backend.dense(q[None], k[None], v[None], causal=True))


def over(backend: Backend, q: Tensor, view: KVView) -> Partial:
    """Every query over all of its row: q [B, Q, H, D] -> Partial of B * Q tokens, row by row."""
    paged = getattr(backend, "paged", None)
    result = paged(q, view) if paged else None
    if result is not None:
        return _flat(*result)
    parts = [_flat(*backend.dense(q[at], k, v, causal=False)) for at, k, v in view.dense()]
    if len(parts) == 1:
        return parts[0]
    return Partial(torch.cat([p.out for p in parts]), torch.cat([p.lse for p in parts]))


def _flat(out: Tensor, lse: Tensor) -> Partial:
    return Partial(out.flatten(0, 1), lse.transpose(1, 2).flatten(0, 1).to(lse_dtype(out.dtype)))
