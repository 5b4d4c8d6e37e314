"""`FAPool` on a base rank: the whole model, its heads sliced over the base; attention of leased
requests asked of the pool ranks of its heads, merged with what was attended here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fapool.forecast.memory import base_blocks
from fapool.leases import Lease
from fapool.phases import Phase
from fapool.runtime.attention.base import causal
from fapool.runtime.batch import Batch
from fapool.runtime.exchange.base import Ticket
from fapool.runtime.local import LocalAttention, LocalBatch
from fapool.runtime.partial import Partial, empty, merge
from fapool.runtime.plans.base import Ending
from fapool.runtime.plans.lending import Lending
from fapool.runtime.plans.messages import pack, partial_size, unpack_partial
from fapool.runtime.plans.shares import Share, moved, share
from fapool.runtime.seat import Seat
from fapool.runtime.tokens import Tokens
from fapool.schedule import Step
from fapool.spec import RunSpec
from fapool.topology import kv_senders
from fapool.workload import Request


@dataclass(frozen=True)
class Query:
    """What goes to one pool rank in every layer of a step, and where its answer belongs."""

    pool_rank: int
    share: Share
    asked: Tensor  # [nA] rows of the batch
    stored: Tensor  # [nS] rows of the batch
    places: Tensor | None  # [nA] rows among the leased ones; None: all of them, in order


@dataclass(frozen=True)
class Work:
    """A step cut into what is attended here and what is asked of the pool."""

    batch: Batch
    local: LocalBatch | None
    local_rows: Tensor | None  # None: every row
    leased_rows: Tensor | None  # None: every row
    own: tuple[slice, ...]  # prefill: rows of each leased segment
    queries: tuple[Query, ...]
    leased: int  # leased rows


class FAPoolBase:
    """One base rank."""

    def __init__(
        self, seat: Seat, spec: RunSpec, requests: Sequence[Request], *, keep_logits: bool = False
    ) -> None:
        self._seat, self._place, self._spec = seat, seat.place, spec
        self._decoder = seat.decoder()
        self.cache = seat.cache(spec, list(requests))
        self._local = LocalAttention(self.cache, seat.backends, seat.span)
        self._blocks = {request.id: base_blocks(spec, request) for request in requests}
        self._tokens = Tokens(requests, vocab=spec.model.vocab, seed=spec.seed, device=seat.device)
        self._lending = Lending(spec, requests, seat.span)
        sent = kv_senders(spec.model, spec.plan)[seat.place.rank]
        first = seat.place.kv_heads.start
        self._sent = slice(sent.start - first, sent.stop - first)
        self.ending = Ending(seat, self._decoder, keep_logits=keep_logits)

    def run(self, step: Step) -> list[tuple[list[int], Tensor]]:
        """See `Plan.run`."""
        for lease in self._lending.grant(step):
            self._hand_over(lease)
        with self._seat.span(Phase.PLAN_STEP):
            work = self._plan(Batch(step.kind, step.segments, self._seat.device))
        with self._seat.span(Phase.EMBED):
            x = self._decoder.embed(self._tokens.inputs(work.batch))
        x = self._decoder.layers(
            x,
            work.batch.positions,
            lambda layer, q, k, v: self._attend(work, layer, q, k, v),
            self._seat.peers.sum,
        )
        self._seat.transport.drain()
        emitters = work.batch.emitters
        if not emitters:
            return []
        tokens = self.ending.choose(x, work.batch.index(work.batch.emitting), emitters)
        self._tokens.put(emitters, tokens)
        return [(emitters, tokens)]

    def end(self, step: Step) -> None:
        """See `Plan.end`."""
        self._lending.end(step)
        for request in step.finished:
            if request in self.cache:
                self.cache.free(request)

    def settle(self) -> None:
        """See `Plan.settle`."""
        self._seat.transport.drain()

    @property
    def leases(self) -> Mapping[int, Lease]:
        """See `Plan.leases`."""
        return self._lending.leases

    @property
    def leased(self) -> int:
        """See `Plan.leased`."""
        return len(self._lending.leases)

    def _hand_over(self, lease: Lease) -> None:
        """Send a request's keys to its columns and forget them here."""
        if lease.request not in self.cache:
            return
        cache, shards = self.cache, len(lease.columns)
        for index, column in enumerate(lease.columns):
            taken = moved(lease.request, lease.tokens, index, shards, self._spec.block)
            if taken.rows and self._sent.stop > self._sent.start:
                slots = torch.tensor(cache.slots(lease.request, taken.rows))
                k, v = cache.read(slots.to(self._seat.device))
                message = pack(k[:, :, self._sent], v[:, :, self._sent])
                self._seat.transport.send(message, self._place.partners[column], Phase.SEND_KV)
        cache.free(lease.request)

    def _plan(self, batch: Batch) -> Work:
        leases = self._lending.leases
        here = [s for s in batch.segments if s.request not in leases]
        for segment in here:
            if segment.request not in self.cache:
                self.cache.reserve(segment.request, self._blocks[segment.request])
        rows = {True: [], False: []}
        own = []
        for start, s in zip(batch.starts, batch.segments, strict=True):
            lent = s.request in leases
            if lent and batch.kind == "prefill":
                own.append(slice(start, start + s.length))
            rows[lent].extend(range(start, start + s.length))
        some = bool(rows[True])
        part = Batch(batch.kind, tuple(here), batch.device) if some and here else batch
        return Work(
            batch,
            self._local.plan(part) if here else None,
            batch.index(rows[False]) if some and here else None,
            batch.index(rows[True]) if some and here else None,
            tuple(own),
            tuple(self._queries(batch, rows[True])) if some else (),
            len(rows[True]),
        )

    def _queries(self, batch: Batch, leased_rows: list[int]):
        order = {row: i for i, row in enumerate(leased_rows)}
        for column, pool_rank in enumerate(self._place.partners):
            part = share(batch, column, self._lending.leases, self._spec.block)
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

    def _attend(self, work: Work, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
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
        """Prefill: every leased chunk over itself, as one part."""
        if not work.own:
            return []
        with self._seat.span(Phase.ATTEND, layer=layer):
            backend = self._seat.backends.prefill
            own = [causal(backend, q[rows], k[rows], v[rows]) for rows in work.own]
            return [Partial(torch.cat([p.out for p in own]), torch.cat([p.lse for p in own]))]

    def _answers(
        self, work: Work, layer: int, q: Tensor, coming: list[tuple[Query, Ticket]]
    ) -> list[Partial]:
        """Wait for the pool's parts; each over all leased rows, empty where it was not asked."""
        heads, dim = q.shape[1:]
        parts = []
        for query, ticket in coming:
            part = unpack_partial(ticket.wait(), len(query.asked), heads, dim)
            if query.places is not None:
                whole = empty(work.leased, heads, dim, dtype=q.dtype, device=q.device)
                whole.out[query.places], whole.lse[query.places] = part.out, part.lse
                part = whole
            parts.append(part)
        self._seat.transport.drain()
        return parts
