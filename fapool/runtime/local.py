"""Attention of requests whose keys lie on this very rank, in a prefill."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fapool.phases import Phase
from fapool.runtime.attention import Backends
from fapool.runtime.attention.base import causal, over
from fapool.runtime.batch import Batch
from fapool.runtime.kvcache import KVCache
from fapool.runtime.partial import merge
from fapool.runtime.rows import Rows
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
            slots += cache.slots(segment.request, range(segment.start, segment.end))
            cache.tokens[segment.request] = segment.end
        past = (cache.rows([s.request], [s.start]) if s.start else None for s in batch.segments)
        return LocalBatch(batch, batch.index(slots), tuple(past))

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
                if past is not None:
                    before = over(backend, q[own].unsqueeze(0), self.cache.view(layer, past))
                    part = merge([part, before])
                outs.append(part.out)
            return outs[0] if len(outs) == 1 else torch.cat(outs)
