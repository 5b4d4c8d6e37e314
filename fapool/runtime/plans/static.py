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
from fapool.runtime.decode import Decode
from fapool.runtime.exchange.base import Ticket
from fapool.runtime.frames import Frame
from fapool.runtime.local import LocalAttention
from fapool.runtime.plans.base import Ending, attend_here
from fapool.runtime.seat import Seat
from fapool.runtime.tokens import Tokens
from fapool.schedule import Segment, Step
from fapool.spec import RunSpec
from fapool.topology import home_deal
from fapool.workload import Request

Chosen = list[tuple[list[int], Tensor]]


class StaticPlan:
    """One rank of a static layout."""

    leased = 0
    leases = MappingProxyType({})
    bound = True

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
        self.ending = Ending(seat, self._decoder, self._tokens, keep_logits=keep_logits)
        deal = home_deal(spec)
        self._decode = Decode(
            seat, spec, requests, self.cache, lambda request: deal, [self._tokens.latest]
        )
        self._hidden: dict[int, Tensor] = {}  # rows of a frame -> what the stage before sends

    def run(self, step: Step) -> Chosen:
        """See `Plan.run`."""
        chosen: Chosen = []
        stage = self._run_decode if step.kind == "decode" else self._run_prefill
        for number, segments in enumerate(split(step.segments, self._parts)):
            self._seat.span.micro_batch = number
            chosen += stage(segments)
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

    def reset(self) -> None:
        """See `Plan.reset`."""
        self.cache.clear()

    def close(self) -> None:
        """See `Plan.close`."""
        self._decode.close()

    @property
    def held_bytes(self) -> int:
        """See `Plan.held_bytes`."""
        return self._decode.held_bytes + sum(x.nbytes for x in self._hidden.values())

    def _run_prefill(self, segments: tuple[Segment, ...]) -> Chosen:
        with self._seat.span(Phase.PLAN_STEP):
            batch = Batch("prefill", segments, self._seat.device)
            for segment in segments:
                if segment.request not in self.cache:
                    self.cache.reserve(segment.request, self._blocks[segment.request])
            local = self._local.plan(batch)
        if self._place.is_first:
            with self._seat.span(Phase.EMBED):
                x = self._decoder.embed(self._tokens.inputs(batch))
        else:
            x = self._receive(batch.tokens)
        x = self._decoder.layers(
            x,
            batch.positions,
            lambda layer, q, k, v: self._local.attend(local, layer, q, k, v),
            self._seat.peers.sum,
        )
        emitters = batch.emitters
        if not self._place.is_last:
            self._pass_on(x, emitters)
            return []
        if not emitters:
            return []
        tokens, logits = self.ending.choose(x[batch.index(batch.emitting)])
        self.ending.keep(emitters, logits)
        if self._place.is_first:
            self._tokens.put(emitters, tokens)
        return self._pass_back(emitters, tokens)

    def _run_decode(self, segments: tuple[Segment, ...]) -> Chosen:
        requests = [segment.request for segment in segments]
        if self._place.is_first:
            self._take_tokens(set(requests))
        else:
            self._hidden_of(self._decode.size(len(segments)))[: len(segments)] = self._receive(
                len(segments)
            )
        result = self._decode.run(segments, self._body)
        if not self._place.is_last:
            self._pass_on(result[: len(segments)], requests)
            return []
        tokens, logits = result
        self.ending.keep(requests, logits)
        tokens = tokens[: len(segments)]
        if self._parts > 1 or not self._place.is_first:
            # Another micro-batch's replay may write where they are, or the next step's as they go.
            tokens = tokens.clone()
        return self._pass_back(requests, tokens)

    def _body(self, frames: list[Frame]) -> tuple[Tensor, Tensor] | Tensor:
        """Token to token where the stage is the only one; else hidden states in, or out."""
        (frame,) = frames
        if self._place.is_first:
            with self._seat.span(Phase.EMBED):
                x = self._decoder.embed(self._tokens.latest.index_select(0, frame.ids))
        else:
            x = self._hidden_of(frame.size)
        x = self._decoder.layers(
            x,
            frame.positions,
            lambda *layer_q_k_v: attend_here(self._seat, self.cache, frame, *layer_q_k_v).out,
            self._seat.peers.sum,
        )
        return self.ending.decode(x, frame.ids) if self._place.is_last else x

    def _hidden_of(self, size: int) -> Tensor:
        """Where the body over a frame of `size` rows finds its hidden states [size, E]."""
        if size not in self._hidden:
            like = self._seat.weights.layers[self._place.layers.start].norm_ffn
            self._hidden[size] = like.new_zeros(size, self._seat.spec.model.hidden)
        return self._hidden[size]

    def _receive(self, tokens: int) -> Tensor:
        """Hidden states [T, E] of the stage before."""
        shape = (tokens, self._seat.spec.model.hidden)
        like = self._seat.weights.layers[self._place.layers.start].norm_ffn
        ticket = self._seat.transport.receive(shape, like, self._place.previous, Phase.WAIT_HIDDEN)
        return ticket.wait()

    def _pass_on(self, x: Tensor, emitters: list[int]) -> None:
        """Send hidden states to the next stage; the first stage awaits their tokens."""
        x = x.clone()  # a graph's output is written again by its next replay
        self._seat.transport.send(x, self._place.next, Phase.SEND_HIDDEN)
        if self._place.is_first and emitters:
            ticket = self._seat.token_transport.receive(
                (len(emitters),), self._tokens.latest, self._last_peer, Phase.WAIT_TOKENS
            )
            self._coming.append((ticket, emitters))

    def _pass_back(self, requests: list[int], tokens: Tensor) -> Chosen:
        """Tokens of the last stage, on their way to the first, which knows its own."""
        if not self._place.is_first:
            self._seat.token_transport.send(tokens, self._first_peer, Phase.SEND_TOKENS)
        return [(requests, tokens)]

    def _take_tokens(self, wanted: set[int]) -> None:
        """Wait, in order, until no token of `wanted` is on its way."""
        while any(wanted.intersection(requests) for _, requests in self._coming):
            ticket, requests = self._coming.popleft()
            self._tokens.put(requests, ticket.wait())
