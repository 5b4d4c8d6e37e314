"""A prefill on a base rank of `FAPool`: every chunk over itself here, over what came before where
its keys lie, one message to each pool rank and one back per layer.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fapool.phases import Phase
from fapool.runtime.attention.base import causal, over
from fapool.runtime.batch import Batch
from fapool.runtime.exchange.base import Ticket
from fapool.runtime.kvcache import KVCache
from fapool.runtime.local import LocalAttention, LocalBatch
from fapool.runtime.partial import Partial, empty, merge
from fapool.runtime.plans.lending import Lending
from fapool.runtime.plans.messages import pack, partial_size, unpack_partial
from fapool.runtime.plans.shares import Share, share
from fapool.runtime.rows import Rows
from fapool.runtime.seat import Seat
from fapool.spec import RunSpec


@dataclass(frozen=True)
class Query:
    """What goes to one pool rank in every layer of a step, and where its answer belongs."""

    pool_rank: int
    share: Share
    asked: Tensor  # [nA] rows of the batch
    stored: Tensor  # [nS] rows of the batch
    places: Tensor | None  # [nA] rows among the leased ones; None: all of them, in order


@dataclass(frozen=True)
class Kept:
    """The base's own share of the leased requests' keys."""

    stored: Tensor  # [nS] rows of the batch
    slots: Tensor  # [nS]
    seen: tuple[tuple[slice, slice, Rows], ...]  # rows of the batch, of the leased, what they see


@dataclass(frozen=True)
class Work:
    """A prefill cut into what is attended here and what is asked of the pool."""

    local: LocalBatch | None
    local_rows: Tensor | None  # None: every row
    leased_rows: Tensor | None  # None: every row
    own: tuple[slice, ...]  # rows of each leased segment
    queries: tuple[Query, ...]
    kept: Kept
    leased: int  # leased rows


class BasePrefill:
    """Plans and attends; `sent`: the KV heads of this rank that it sends to the pool."""

    def __init__(
        self, seat: Seat, spec: RunSpec, cache: KVCache, lending: Lending, sent: slice
    ) -> None:
        self._seat, self._spec, self._cache = seat, spec, cache
        self._lending, self._sent = lending, sent
        self._local = LocalAttention(cache, seat.backends, seat.span)

    def plan(self, batch: Batch) -> Work:
        """What every layer of the step needs; counts its tokens as cached."""
        leases = self._lending.leases
        here = tuple(s for s in batch.segments if s.request not in leases)
        rows = {True: [], False: []}
        own = []
        for start, s in zip(batch.starts, batch.segments, strict=True):
            lent = s.request in leases
            if lent:
                own.append(slice(start, start + s.length))
            rows[lent].extend(range(start, start + s.length))
        some = bool(rows[True])
        part = Batch(batch.kind, here, batch.device) if some and here else batch
        return Work(
            self._local.plan(part) if here else None,
            batch.index(rows[False]) if some and here else None,
            batch.index(rows[True]) if some and here else None,
            tuple(own),
            tuple(self._queries(batch, rows[True])) if some else (),
            self._kept(batch, rows[True]),
            len(rows[True]),
        )

    def attend(self, work: Work, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q [T, H, D], k and v [T, K, D] of the batch's tokens -> [T, H, D]."""
        if not work.leased:
            return self._local.attend(work.local, layer, q, k, v)
        coming = self._ask(work, layer, q, k, v)
        parts = self._own(work, layer, q, k, v)
        out = torch.empty_like(q)
        if work.local is not None:
            rows = work.local_rows
            with self._seat.span(Phase.PACK, layer=layer):
                here = [x[rows] for x in (q, k, v)]
            out[rows] = self._local.attend(work.local, layer, *here)
        parts += self._answers(work, layer, q, coming)
        with self._seat.span(Phase.MERGE, layer=layer):
            merged = merge(parts).out
            if work.leased_rows is None:
                return merged
            out[work.leased_rows] = merged
        return out

    def _share(self, batch: Batch, keeper: int) -> Share:
        leases = self._lending.leases
        deals = {s.request: self._lending.deal(s.request) for s in batch.segments}
        return share(batch, keeper, deals, self._spec.block, requests=leases)

    def _queries(self, batch: Batch, leased_rows: list[int]):
        order = {row: i for i, row in enumerate(leased_rows)}
        for column, pool_rank in enumerate(self._seat.place.partners):
            part = self._share(batch, column)
            if part.is_empty:
                continue
            asked = part.asked_rows
            places = [order[row] for row in asked]
            full = places == list(range(len(leased_rows)))
            yield Query(
                pool_rank,
                part,
                batch.index(asked),
                batch.index(part.stored_rows),
                None if full else batch.index(places),
            )

    def _kept(self, batch: Batch, leased_rows: list[int]) -> Kept:
        cache, keeper = self._cache, self._seat.place.keeper
        mine = self._share(batch, keeper)
        for s in batch.segments:
            if s.request in self._lending.leases:
                deal = self._lending.deal(s.request)
                cache.tokens[s.request] = deal.tokens(s.end, self._spec.block, keeper)
        slots = [at for s in mine.stored for at in cache.slots(s.request, s.positions)]
        seen = []
        for asked in mine.asked:
            first = leased_rows.index(asked.rows.start)
            at, among = slice(asked.rows.start, asked.rows.stop), len(asked.rows)
            rows = cache.rows([asked.request], [asked.visible])
            seen.append((at, slice(first, first + among), rows))
        return Kept(batch.index(mine.stored_rows), batch.index(slots), tuple(seen))

    def _ask(self, work: Work, layer: int, q: Tensor, k: Tensor, v: Tensor):
        """Post the queries and the receives of their answers."""
        transport, coming = self._seat.transport, []
        heads, dim = q.shape[1:]
        for query in work.queries:
            with self._seat.span(Phase.PACK, layer=layer):
                new_k, new_v = k[query.stored, self._sent], v[query.stored, self._sent]
                message = pack(q[query.asked], new_k, new_v)
            if message.numel():
                transport.send(message, query.pool_rank, Phase.SEND_QUERY, layer=layer)
            if query.share.asked:
                size = partial_size(len(query.asked), heads, dim, q.dtype)
                ticket = transport.receive(
                    (size,), q, query.pool_rank, Phase.WAIT_PARTIALS, layer=layer
                )
                coming.append((query, ticket))
        return coming

    def _own(self, work: Work, layer: int, q: Tensor, k: Tensor, v: Tensor) -> list[Partial]:
        """Every leased chunk over itself, as one part, and over what the base keeps before it."""
        backend, kept = self._seat.backends.prefill, work.kept
        if len(kept.stored):
            with self._seat.span(Phase.APPEND_KV, layer=layer):
                self._cache.append(layer, kept.slots, k[kept.stored], v[kept.stored])
        with self._seat.span(Phase.ATTEND, layer=layer):
            own = [causal(backend, q[rows], k[rows], v[rows]) for rows in work.own]
            parts = [Partial(torch.cat([p.out for p in own]), torch.cat([p.lse for p in own]))]
            if kept.seen:
                whole = self._empty(work, q)
                for rows, places, seen in kept.seen:
                    part = over(backend, q[rows].unsqueeze(0), self._cache.view(layer, seen))
                    whole.out[places], whole.lse[places] = part.out, part.lse
                parts.append(whole)
        return parts

    def _answers(
        self, work: Work, layer: int, q: Tensor, coming: list[tuple[Query, Ticket]]
    ) -> list[Partial]:
        """Wait for the pool's parts; each over all leased rows, empty where it was not asked."""
        heads, dim = q.shape[1:]
        parts = []
        for query, ticket in coming:
            part = unpack_partial(ticket.wait(), len(query.asked), heads, dim)
            if query.places is not None:
                whole = self._empty(work, q)
                whole.out[query.places], whole.lse[query.places] = part.out, part.lse
                part = whole
            parts.append(part)
        self._seat.transport.drain()
        return parts

    def _empty(self, work: Work, q: Tensor) -> Partial:
        return empty(work.leased, *q.shape[1:], dtype=q.dtype, device=q.device)
