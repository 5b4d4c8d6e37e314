"""One rank's kernel calls over a prompt, and its partials, whichever of keys and queries travel.

shapes:  S tokens of a rank, Q queries, H heads, K KV heads (K divides H), D head dim
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fapool.runtime.attention.base import Backend, causal
from fapool.runtime.partial import Partial, lse_dtype
from fapool.runtime.sequence.merging import merge_into


def own(backend: Backend, q: Tensor, k: Tensor, v: Tensor) -> Partial:
    """A rank's queries over its own keys, two chunks end to end; `out` contiguous."""
    if not q.shape[0]:
        return Partial(torch.empty_like(q), q.new_empty(q.shape[:2], dtype=lse_dtype(q.dtype)))
    part = causal(backend, q, k, v)
    return Partial(part.out.contiguous(), part.lse)


def over(backend: Backend, q: Tensor, k: Tensor, v: Tensor) -> Partial:
    """Every one of q [Q, H, D] over every one of k and v [S, K, D]."""
    out, lse = backend.dense(q[None], k[None], v[None], causal=False)
    return Partial(out[0], lse[0].T)


def merge(total: Partial, num_early: int, parts: Sequence[Partial]) -> None:
    """`total` [S] becomes its union with `parts`: of all rows, or of those after `num_early`."""
    num_rows = total.out.shape[0]
    whole = [part for part in parts if part.out.shape[0] == num_rows]
    late = [part for part in parts if part.out.shape[0] < num_rows]
    if not late:
        merge_into(total, whole)
        return
    early_rows, late_rows = slice(0, num_early), slice(num_early, num_rows)
    merge_into(_rows(total, early_rows), [_rows(part, early_rows) for part in whole])
    merge_into(_rows(total, late_rows), [*(_rows(part, late_rows) for part in whole), *late])


def _rows(part: Partial, rows: slice) -> Partial:
    return Partial(part.out[rows], part.lse[rows])
