"""`FAPool` on a pool rank: no weights, keys of leased requests, partial attention on demand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fapool.leases import Lease
from fapool.phases import Phase
from fapool.runtime.attention.base import over
from fapool.runtime.batch import indices
from fapool.runtime.decode import Decode
from fapool.runtime.exchange.link import PoolLink
from fapool.runtime.frames import Frame
from fapool.runtime.plans.lending import Lending
from fapool.runtime.plans.messages import unpack
from fapool.runtime.plans.prefill_pool import PoolPrefill, pool_partners
from fapool.runtime.plans.shares import moved
from fapool.runtime.rows import KVView
from fapool.runtime.seat import Seat
from fapool.schedule import Step
from fapool.spec import RunSpec
from fapool.workload import Request


class FAPoolPool:
    """One pool rank."""

    def __init__(
        self, seat: Seat, spec: RunSpec, requests: Sequence[Request], *, keep_logits: bool = False
    ) -> None:
        self._seat, self._place, self._spec = seat, seat.place, spec
        self.cache = seat.cache(spec, list(requests))
        self._lending = Lending(spec, requests, seat.span)
        self._like = torch.empty(0, dtype=seat.dtype, device=seat.device)
        self._partners = pool_partners(spec, seat.place)
        self._prefill = PoolPrefill(seat, spec, self.cache, self._lending)
        self._decode = Decode(seat, spec, requests, self.cache, self._lending.deal)

    def run(self, step: Step) -> list:
        """See `Plan.run`."""
        for lease in self._changed(self._lending.grant(step)):
            if self._place.keeper in lease.columns:
                self._take_over(lease)
        if step.kind == "prefill":
            self._prefill.run(step)
            if step.first_tokens:
                self._seat.lanes.drain()
        else:
            shape = asks, _ = self._lending.shape(step)
            if asks:
                self._decode.run(step.segments, self._body, shape, self._lending.parts(step))
        return []

    def end(self, step: Step) -> None:
        """See `Plan.end`."""
        for lease in self._changed(self._lending.end(step)):
            if lease.request in self.cache:
                self.cache.free(lease.request)

    def settle(self) -> None:
        """See `Plan.settle`."""
        self._seat.transport.drain()
        self._seat.lanes.drain()

    def reset(self) -> None:
        """See `Plan.reset`."""
        self.cache.clear()
        self._lending.reset()

    def close(self) -> None:
        """See `Plan.close`."""
        self._decode.close()

    @property
    def held_bytes(self) -> int:
        """See `Plan.held_bytes`."""
        return self._decode.held_bytes

    @property
    def leases(self) -> Mapping[int, Lease]:
        """See `Plan.leases`."""
        return self._lending.leases

    @property
    def bound(self) -> bool:
        """See `Plan.bound`: all of the pool is asked as soon as any of it has keys."""
        return bool(self._lending.leases)

    @property
    def leased(self) -> int:
        """See `Plan.leased`."""
        leases = self._lending.leases.values()
        return sum(self._place.keeper in lease.columns for lease in leases)

    def _changed(self, leases: list[Lease]) -> list[Lease]:
        """Leases that began or ended: others may attend for those that go on."""
        if leases:
            self._decode.reseat()
        return leases

    def _take_over(self, lease: Lease) -> None:
        """Reserve blocks for all that the request will have here, and receive what it has."""
        deal, keeper = self._lending.deal(lease.request), self._place.keeper
        total = -(-self._lending.cached(lease.request) // self._spec.block)
        self.cache.reserve(lease.request, deal.blocks(total, keeper))
        taken = moved(lease.request, lease.tokens, deal, keeper, self._spec.block)
        if not taken.runs:
            return
        layers, dim, number = len(self._place.layers), self._spec.model.head_dim, len(taken)
        shapes = [(layers, number, kv, dim) for _, _, kv in self._partners]
        coming = [
            self._seat.transport.receive(
                (2 * layers * number * kv * dim,), self._like, base, Phase.WAIT_KV
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
        slots = taken.slots(self.cache.tables[lease.request], self._spec.block)
        k, v = (torch.cat(parts, dim=2) for parts in zip(*pairs, strict=True))
        self.cache.write(indices([slots], self._seat.device)[0], k, v)
        self.cache.tokens[lease.request] = number

    def _body(self, frames: list[Frame], asks: bool, here: bool) -> None:
        """Every layer's attention over what lies here, for the base's queries."""
        seat, halves = self._seat, list(zip(self._seat.links, frames, strict=False))
        for link, frame in halves:
            link.begin(frame.size)
        for layer in self._place.layers:
            for number, (link, frame) in enumerate(halves):
                seat.span.micro_batch = number if len(halves) > 1 else -1
                q, _, _ = link.queries(layer, self.cache.place_of(layer, frame.slots))
                self._attend(link, layer, q, self.cache.view(layer, frame.rows))
        seat.span.micro_batch = -1

    def _attend(self, link: PoolLink, layer: int, q: Tensor, view: KVView) -> None:
        """Attend over what lies here, and answer."""
        span, kernel = self._seat.span, self._seat.backends.decode
        if link.takes_items and hasattr(kernel, "unmerged"):
            with span(Phase.ATTEND_PARTIAL, layer=layer):
                items = kernel.unmerged(q, view)
            link.answer_items(layer, items)
            return
        with span(Phase.ATTEND_PARTIAL, layer=layer):
            part = over(kernel, q.unsqueeze(1), view)
        link.answer(layer, part)
