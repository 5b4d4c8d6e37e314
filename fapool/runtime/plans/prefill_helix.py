"""A prefill of `Helix`: what came before a chunk is attended where its keys lie, for all heads of
the slice; the chunk itself by everybody for the heads that he stands for, which he projected too.

    shapes:  T tokens, P of them with keys before the chunk, H heads of the slice, h own, K KV heads
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fapool.deals import Deal
from fapool.phases import Phase
from fapool.runtime.attention.base import causal, over
from fapool.runtime.batch import Batch, Selection
from fapool.runtime.exchange.shards import Shards
from fapool.runtime.frames import NOT_HERE
from fapool.runtime.kvcache import KVCache
from fapool.runtime.partial import Partial, empty
from fapool.runtime.plans.shares import ranges, share, slots_of
from fapool.runtime.rows import Rows
from fapool.runtime.seat import Seat


@dataclass(frozen=True)
class Work:
    """What every layer of a prefill needs."""

    own: tuple[slice, ...]  # rows of each segment
    slots: Tensor  # [T], of the new keys that lie here
    past: tuple[tuple[slice, Rows | None], ...]  # rows with keys before, and what of these is here
    seen: Selection | None  # [P] all such rows; None: every row


class HelixPrefill:
    """Plans and attends on one rank."""

    def __init__(self, seat: Seat, cache: KVCache, deal: Deal, shards: Shards) -> None:
        self._seat, self._cache, self._deal, self._shards = seat, cache, deal, shards
        place, model = seat.place, seat.spec.model
        first, group = place.heads.start, model.heads // model.kv_heads
        self._heads = slice(place.out_heads.start - first, place.out_heads.stop - first)
        keys = [head // group - place.kv_heads.start for head in place.out_heads]
        self._keys = _evenly(keys) or torch.tensor(keys, device=seat.device)

    def plan(self, batch: Batch) -> Work:
        """Look up blocks once for all layers; counts the batch's tokens as cached."""
        cache, keeper, block = self._cache, self._seat.place.keeper, self._cache.block_tokens
        deals = {segment.request: self._deal for segment in batch.segments}
        mine = share(batch, keeper, deals, block, requests=deals)
        slots = np.full(batch.tokens, NOT_HERE)
        slots[mine.stored_rows] = slots_of(mine, cache.tables, block)
        here = {asked.request: asked.visible for asked in mine.asked}
        own = [slice(at, at + s.length) for at, s in zip(batch.starts, batch.segments, strict=True)]
        past = []
        for rows, segment in zip(own, batch.segments, strict=True):
            request = segment.request
            cache.tokens[request] = self._deal.tokens(segment.end, block, keeper)
            if segment.start:
                found = cache.rows([request], [here[request]]) if request in here else None
                past.append((rows, found))
        seen = ranges((rows.start, rows.stop - rows.start) for rows, _ in past)
        selected = batch.selections([seen])[0] if len(seen) < batch.tokens else None
        return Work(tuple(own), batch.index(slots), tuple(past), selected)

    def attend(self, work: Work, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q [T, H, D], k and v [T, K, D] of the batch's tokens -> [T, h, D]."""
        with self._seat.span(Phase.APPEND_KV, layer=layer):
            self._cache.append(layer, work.slots, k, v)
        coming = None
        if work.past:
            coming = self._shards.post(self._before(work, layer, q), layer=layer)
        own = self._within(work, layer, q, k, v)
        if coming is None:
            return own.out
        if work.seen is None:
            return coming(own)
        merged = coming(Partial(own.out[work.seen], own.lse[work.seen]))
        own.out[work.seen] = merged
        return own.out

    def _before(self, work: Work, layer: int, q: Tensor) -> Partial:
        """All heads of the slice over what of the keys before the chunk lies here: [P, H, D]."""
        with self._seat.span(Phase.ATTEND_PARTIAL, layer=layer):
            parts = []
            for own, rows in work.past:
                if rows is None:
                    shape = q[own].shape
                    parts.append(empty(*shape, dtype=q.dtype, device=q.device))
                else:
                    view = self._cache.view(layer, rows)
                    parts.append(over(self._seat.backends.prefill, q[own].unsqueeze(0), view))
            return _joined(parts)

    def _within(self, work: Work, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Partial:
        """Own heads over the chunk itself: [T, h, D]."""
        with self._seat.span(Phase.ATTEND, layer=layer):
            q, k, v = q[:, self._heads], k[:, self._keys], v[:, self._keys]
            backend = self._seat.backends.prefill
            return _joined([causal(backend, q[own], k[own], v[own]) for own in work.own])


def _joined(parts: Sequence[Partial]) -> Partial:
    if len(parts) == 1:
        return parts[0]
    return Partial(torch.cat([p.out for p in parts]), torch.cat([p.lse for p in parts]))


def _evenly(keys: list[int]) -> slice | None:
    """The KV heads of consecutive query heads, if each serves as many of these; else None."""
    some = range(keys[0], keys[-1] + 1)
    even = len({keys.count(key) for key in some}) == 1
    return slice(some.start, some.stop) if even else None
