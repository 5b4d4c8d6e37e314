"""`FAPool` on a pool rank: no weights, keys of leased requests, partial attention on demand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fapool.leases import Lease
from fapool.phases import Phase
from fapool.runtime.attention.base import over
from fapool.runtime.batch import Batch
from fapool.runtime.kvcache import Rows
from fapool.runtime.partial import Partial
from fapool.runtime.plans.lending import Lending
from fapool.runtime.plans.messages import pack_partial, unpack
from fapool.runtime.plans.shares import Share, moved, share
from fapool.runtime.seat import Seat
from fapool.schedule import Step
from fapool.spec import RunSpec
from fapool.topology import kv_senders, local_blocks, local_tokens
from fapool.topology import place as place_of
from fapool.workload import Request


@dataclass(frozen=True)
class Work:
    """This rank's share of a step: the same for every layer."""

    batch: Batch
    share: Share
    slots: Tensor  # [nS]
    views: tuple[tuple[slice, Rows], ...]  # rows of the query message, and what they may see


class FAPoolPool:
    """One pool rank."""

    def __init__(
        self, seat: Seat, spec: RunSpec, requests: Sequence[Request], *, keep_logits: bool = False
    ) -> None:
        self._seat, self._place, self._spec = seat, seat.place, spec
        self.cache = seat.cache(spec, list(requests))
        self._lending = Lending(spec, requests, seat.span)
        self._like = torch.empty(0, dtype=seat.dtype, device=seat.device)
        sent = kv_senders(spec.model, spec.plan)
        self._partners = tuple(
            (base, len(place_of(spec, base).heads), len(sent[base]))
            for base in self._place.partners
        )

    def run(self, step: Step) -> list[tuple[list[int], Tensor]]:
        """See `Plan.run`."""
        for lease in self._lending.grant(step):
            if self._place.column in lease.columns:
                self._take_over(lease)
        with self._seat.span(Phase.PLAN_STEP):
            work = self._plan(step)
        if work is not None:
            for layer in self._place.layers:
                self._serve(work, layer)
            self._seat.transport.drain()
        return []

    def end(self, step: Step) -> None:
        """See `Plan.end`."""
        for lease in self._lending.end(step):
            if lease.request in self.cache:
                self.cache.free(lease.request)

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
        leases = self._lending.leases.values()
        return sum(self._place.column in lease.columns for lease in leases)

    def _shard(self, lease: Lease) -> tuple[int, int]:
        return lease.columns.index(self._place.column), len(lease.columns)

    def _take_over(self, lease: Lease) -> None:
        """Reserve blocks for all that the request will have here, and receive what it has."""
        index, shards = self._shard(lease)
        total = -(-self._lending.cached(lease.request) // self._spec.block)
        self.cache.reserve(lease.request, local_blocks(total, shards, index))
        taken = moved(lease.request, lease.tokens, index, shards, self._spec.block)
        if not taken.rows:
            return
        layers, dim = len(self._place.layers), self._spec.model.head_dim
        shapes = [(layers, len(taken.rows), kv, dim) for _, _, kv in self._partners]
        coming = [
            self._seat.transport.receive(
                (2 * layers * len(taken.rows) * kv * dim,), self._like, base, Phase.WAIT_KV
            )
            if kv
            else None
            for base, _, kv in self._partners
        ]
        pairs = [
            unpack(ticket.wait(), shape, shape)
            for ticket, shape in zip(coming, shapes, strict=True)
            if ticket
        ]
        slots = torch.tensor(self.cache.slots(lease.request, taken.positions))
        k, v = (torch.cat(parts, dim=2) for parts in zip(*pairs, strict=True))
        self.cache.write(slots.to(self._seat.device), k, v)
        self.cache.tokens[lease.request] = len(taken.rows)

    def _plan(self, step: Step) -> Work | None:
        leases, cache = self._lending.leases, self.cache
        if not self.leased:
            return None
        batch = Batch(step.kind, step.segments, self._seat.device)
        mine = share(batch, self._place.column, leases, self._spec.block)
        if mine.is_empty:
            return None
        slots = [at for s in mine.stored for at in cache.slots(s.request, s.positions)]
        for segment in batch.segments:
            lease = leases.get(segment.request)
            if lease and segment.request in cache:
                index, shards = self._shard(lease)
                held = local_tokens(segment.end, self._spec.block, shards, index)
                cache.tokens[segment.request] = held
        return Work(batch, mine, batch.index(slots), tuple(self._views(mine, step.kind)))

    def _views(self, mine: Share, kind: str):
        """Decode: all rows at once, one query each. Prefill: one request after the other."""
        if kind == "decode" and mine.asked:
            requests = [asked.request for asked in mine.asked]
            lengths = [asked.visible for asked in mine.asked]
            yield slice(0, len(requests)), self.cache.rows(requests, lengths)
            return
        start = 0
        for asked in mine.asked:
            rows = slice(start, start + len(asked.rows))
            yield rows, self.cache.rows([asked.request], [asked.visible])
            start = rows.stop

    def _serve(self, work: Work, layer: int) -> None:
        """Take in queries and new keys, answer with partials."""
        asked, stored = len(work.share.asked_rows), len(work.share.stored_rows)
        messages = self._messages(layer, asked, stored)
        if stored:
            with self._seat.span(Phase.APPEND_KV, layer=layer):
                k = torch.cat([k for _, k, _ in messages], dim=1)
                v = torch.cat([v for _, _, v in messages], dim=1)
                self.cache.append(layer, work.slots, k, v)
        if not asked:
            return
        with self._seat.span(Phase.ATTEND_PARTIAL, layer=layer):
            q = torch.cat([q for q, _, _ in messages], dim=1)
            part = self._attend(work, layer, q)
        self._seat.transport.drain()  # of the layer before: taken long ago
        self._answer(part, layer)

    def _messages(self, layer: int, asked: int, stored: int) -> list[list[Tensor]]:
        """q [nA, H, D], k and v [nS, K, D] of every partner."""
        dim, coming = self._spec.model.head_dim, []
        for base, heads, kv in self._partners:
            shapes = ((asked, heads, dim), (stored, kv, dim), (stored, kv, dim))
            size = (asked * heads + 2 * stored * kv) * dim
            ticket = None
            if size:
                ticket = self._seat.transport.receive(
                    (size,), self._like, base, Phase.WAIT_QUERY, layer=layer
                )
            coming.append((ticket, shapes))
        return [
            unpack(ticket.wait() if ticket else self._like, *shapes) for ticket, shapes in coming
        ]

    def _attend(self, work: Work, layer: int, q: Tensor) -> Partial:
        backends = self._seat.backends
        if work.batch.kind == "decode":
            ((_, rows),) = work.views
            return over(backends.decode, q.unsqueeze(1), self.cache.view(layer, rows))
        parts = [
            over(backends.prefill, q[at].unsqueeze(0), self.cache.view(layer, rows))
            for at, rows in work.views
        ]
        return Partial(torch.cat([p.out for p in parts]), torch.cat([p.lse for p in parts]))

    def _answer(self, part: Partial, layer: int) -> None:
        first = 0
        for base, heads, _ in self._partners:
            mine = slice(first, first + heads)
            with self._seat.span(Phase.PACK, layer=layer):
                message = pack_partial(Partial(part.out[:, mine], part.lse[:, mine]))
            self._seat.transport.send(message, base, Phase.SEND_PARTIALS, layer=layer)
            first = mine.stop
