"""What a kernel for partial attention has to offer, and how a batch is put to it.

    shapes:  B requests, Q query tokens of each, H heads, K KV heads (K divides H), S keys, D dim

Backends disagree on empty input (lse = +inf, lse = 0, a dead process), so no kernel is ever
called without keys: an empty row's part is (0, -inf). They disagree on the causal mask where
Q != S, so `causal` implies Q = S.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from fapool.runtime.partial import Partial, empty, lse_dtype
from fapool.runtime.rows import KVView


class Backend(Protocol):
    """One attention kernel."""

    name: str

    def unfit(self, *, device: torch.device, dtype: torch.dtype, head_dim: int) -> str | None:
        """Why it cannot run there; None if it can."""

    def dense(self, q: Tensor, k: Tensor, v: Tensor, *, causal: bool) -> tuple[Tensor, Tensor]:
        """q [B, Q, H, D], k and v [B, S, K, D], S >= 1 -> out [B, Q, H, D], lse [B, H, Q]."""


class GrainedBackend(Backend, Protocol):
    """A kernel that does lengths which fill a grain in another way than others."""

    grain: int  # tokens


class PagedBackend(Backend, Protocol):
    """A kernel that reads blocks in place, with lengths of its own for every request.

    It takes lengths and block tables from the device alone, so that a CUDA graph can hold it.
    """

    page: int  # its blocks have a multiple of so many tokens

    def paged(self, q: Tensor, view: KVView) -> tuple[Tensor, Tensor]:
        """q [B, Q, H, D] -> out, lse as `dense`; an empty row gives (0, -inf)."""


class Unmerged(NamedTuple):
    """Partials of the work items that rows were cut into: row b has first[b] .. first[b + 1]."""

    out: Tensor  # [I, H, D] fp32
    lse: Tensor  # [I, H] fp32
    first: Tensor  # [B + 1] int32


class ItemBackend(PagedBackend, Protocol):
    """A paged kernel for one query a row that can leave the merging of its items to others."""

    def unmerged(self, q: Tensor, view: KVView) -> Unmerged:
        """q [B, H, D] -> items, good until the next call on the current stream."""


def reads_pages(backend: Backend, block_tokens: int) -> bool:
    """Whether a kernel reads blocks of that many tokens in place."""
    page = getattr(backend, "page", None)
    return page is not None and block_tokens % page == 0


def causal(backend: Backend, q: Tensor, k: Tensor, v: Tensor) -> Partial:
    """A chunk on itself: q [T, H, D], k and v [T, K, D]; token t sees keys 0..t."""
    return flat(*backend.dense(q[None], k[None], v[None], causal=True))


def over(backend: Backend, q: Tensor, view: KVView) -> Partial:
    """Every query over all of its row: q [B, Q, H, D] -> Partial of B * Q tokens, row by row."""
    if reads_pages(backend, view.rows.block_tokens):
        return flat(*backend.paged(q, view))
    pieces = [(at, flat(*backend.dense(q[at], k, v, causal=False))) for at, k, v in view.dense()]
    if sum(at.stop - at.start for at, _ in pieces) < len(q):
        return _among_empty(q, pieces)
    parts = [part for _, part in pieces]
    if len(parts) == 1:
        return parts[0]
    return Partial(torch.cat([p.out for p in parts]), torch.cat([p.lse for p in parts]))


def _among_empty(q: Tensor, pieces: list[tuple[slice, Partial]]) -> Partial:
    rows, queries, heads, dim = q.shape
    whole = empty(rows * queries, heads, dim, dtype=q.dtype, device=q.device)
    for at, part in pieces:
        where = slice(at.start * queries, at.stop * queries)
        whole.out[where], whole.lse[where] = part.out, part.lse
    return whole


def flat(out: Tensor, lse: Tensor) -> Partial:
    """What `dense` gives, [B, Q, H, D] and [B, H, Q], as a partial of B * Q tokens."""
    return Partial(out.flatten(0, 1), lse.transpose(1, 2).flatten(0, 1).to(lse_dtype(out.dtype)))
