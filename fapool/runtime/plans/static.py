"""`Static(tp, pp)`: heads and FFN sliced over `tp`, layers over `pp` stages, keys where they fall.

Stages work on micro-batches in turn. The first stage starts a micro-batch as soon as its tokens
have come back, while later stages still work on others: there is no flush between steps.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from types import MappingProxyType

from torch import Tensor

from fapool.forecast.memory import base_blocks
from fapool.phases import Phase
from fapool.runtime.batch import Batch, split
from fapool.runtime.exchange.base import Ticket
from fapool.runtime.local import LocalAttention, LocalBatch
from fapool.runtime.plans.base import Ending
from fapool.runtime.seat import Seat
from fapool.runtime.tokens import Tokens
from fapool.schedule import Step
from fapool.spec import RunSpec
from fapool.workload import Request


class StaticPlan:
    """One rank of a static layout."""

    leased = 0
    leases = MappingProxyType({})

    def __init__(
        self, seat: Seat, spec: RunSpec, requests: Sequence[Request], *, keep_logits: bool = False
    ) -> None:
        self._seat, self._place = seat, seat.place
        self._decoder = seat.decoder()
        self.cache = seat.cache(spec, list(requests))
        self._local = LocalAttention(self.cache, seat.backends, seat.span)
        self._blocks = {request.id: base_blocks(spec, request) for request in requests}
        self._tokens = Tokens(requests, vocab=spec.model.vocab, seed=spec.seed, device=seat.device)
        self._coming: deque[tuple[Ticket, list[int]]] = deque()  # tokens on their way back
        self._parts = spec.plan.micro_batches or spec.plan.pp
        self._first_peer = self._place.rank % spec.plan.tp
        self._last_peer = spec.plan.world - spec.plan.tp + self._first_peer
        self.ending = Ending(seat, self._decoder, keep_logits=keep_logits)

    def run(self, step: Step) -> list[tuple[list[int], Tensor]]:
        """See `Plan.run`."""
        chosen = []
        for number, segments in enumerate(split(step.segments, self._parts)):
            self._seat.span.micro_batch = number
            with self._seat.span(Phase.PLAN_STEP):
                batch = Batch(step.kind, segments, self._seat.device)
                local = self._plan(batch)
            x = self._enter(batch)
            x = self._decoder.layers(
                x,
                batch.positions,
                lambda layer, q, k, v, local=local: self._local.attend(local, layer, q, k, v),
                self._seat.peers.sum,
            )
            chosen += self._leave(batch, x)
        self._seat.span.micro_batch = -1
        self._seat.transport.drain()
        self._seat.token_transport.drain()
        return chosen

    def end(self, step: Step) -> None:
        """See `Plan.end`."""
        self._take_tokens(set(step.finished))
        for request in step.finished:
            self.cache.free(request)

    def settle(self) -> None:
        """See `Plan.settle`."""
        self._take_tokens({request for _, requests in self._coming for request in requests})

    def _plan(self, batch: Batch) -> LocalBatch:
        for segment in batch.segments:
            if segment.request not in self.cache:
                self.cache.reserve(segment.request, self._blocks[segment.request])
        return self._local.plan(batch)

    def _enter(self, batch: Batch) -> Tensor:
        if self._place.is_first:
            self._take_tokens({s.request for s in batch.segments})
            with self._seat.span(Phase.EMBED):
                return self._decoder.embed(self._tokens.inputs(batch))
        shape = (batch.tokens, self._seat.spec.model.hidden)
        like = self._seat.weights.layers[self._place.layers.start].norm_ffn
        ticket = self._seat.transport.receive(shape, like, self._place.previous, Phase.WAIT_HIDDEN)
        return ticket.wait()

    def _leave(self, batch: Batch, x: Tensor) -> list[tuple[list[int], Tensor]]:
        emitters = batch.emitters
        if not self._place.is_last:
            self._seat.transport.send(x.contiguous(), self._place.next, Phase.SEND_HIDDEN)
            if self._place.is_first and emitters:
                ticket = self._seat.token_transport.receive(
                    (len(emitters),), batch.positions, self._last_peer, Phase.WAIT_TOKENS
                )
                self._coming.append((ticket, emitters))
            return []
        if not emitters:
            return []
        tokens = self.ending.choose(x, batch.index(batch.emitting), emitters)
        if self._place.is_first:
            self._tokens.put(emitters, tokens)
        else:
            self._seat.token_transport.send(tokens, self._first_peer, Phase.SEND_TOKENS)
        return [(emitters, tokens)]

    def _take_tokens(self, wanted: set[int]) -> None:
        """Wait, in order, until no token of `wanted` is on its way."""
        while any(wanted.intersection(requests) for _, requests in self._coming):
            ticket, requests = self._coming.popleft()
            self._tokens.put(requests, ticket.wait())
