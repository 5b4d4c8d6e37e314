"""Attention of requests whose keys lie on this very rank, in a prefill."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fapool.phases import Phase
from fapool.runtime.attention import Backends
from fapool.runtime.attention.base import causal, over
from fapool.runtime.batch import Batch
from fapool.runtime.kvcache import KVCache
from fapool.runtime.partial import Partial
from fapool.runtime.rows import Rows
from fapool.runtime.sequence.merging import merge_into
from fapool.runtime.span import Span


@dataclass(frozen=True)
class LocalBatch:
    """What every layer of a step needs: where new keys go, and what each query may see."""

    batch: Batch
    slots: Tensor  # [T]
    past: tuple[Rows | None, ...]  # of each segment, what came before it


class LocalAttention:
    """Writes a batch's keys into the cache and attends over what its requests have there."""

    def __init__(self, cache: KVCache, backends: Backends, span: Span) -> None:
        self.cache, self._backends, self._span = cache, backends, span

    def plan(self, batch: Batch) -> LocalBatch:
        """Look up blocks once for all layers; counts the batch's tokens as cached."""
        cache, slots = self.cache, []
        for segment in batch.segments:
            block, within = np.divmod(np.arange(segment.start, segment.end), cache.block_tokens)
            slots.append(cache.tables[segment.request][block] * cache.block_tokens + within)
            cache.tokens[segment.request] = segment.end
        past = (cache.rows([s.request], [s.start]) if s.start else None for s in batch.segments)
        return LocalBatch(batch, batch.index(np.concatenate(slots)), tuple(past))

    def attend(self, step: LocalBatch, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q [T, H, D], k and v [T, K, D] of the batch's tokens -> [T, H, D]."""
        with self._span(Phase.APPEND_KV, layer=layer):
            self.cache.append(layer, step.slots, k, v)
        with self._span(Phase.ATTEND, layer=layer):
            outs, backend = [], self._backends.prefill
            for start, segment, past in zip(
                step.batch.starts, step.batch.segments, step.past, strict=True
            ):
                own = slice(start, start + segment.length)
                part = causal(backend, q[own], k[own], v[own])
                part = Partial(part.out.contiguous(), part.lse)
                if past is not None:
                    view = self.cache.view(layer, past)
                    merge_into(part, [over(backend, q[own].unsqueeze(0), view)])
                outs.append(part.out)
            return outs[0] if len(outs) == 1 else torch.cat(outs)
