"""`Helix(kvp, tp)`: keys shared by sequence, everything else sliced over all ranks.

A rank projects and attends for the heads of its `tp` slice, over a 1/`kvp` share of every
request's blocks. One exchange among the ranks of the slice gives it 1/`kvp` of these heads over
all keys: its share of all heads in what follows, tensor parallel over `kvp` x `tp` ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType

from torch import Tensor

from fapool.phases import Phase
from fapool.runtime.batch import Batch
from fapool.runtime.decode import Decode
from fapool.runtime.exchange.shards import Shards
from fapool.runtime.frames import Frame
from fapool.runtime.plans.base import Ending, attend_here
from fapool.runtime.plans.prefill_helix import HelixPrefill
from fapool.runtime.seat import Seat
from fapool.runtime.tokens import Tokens
from fapool.schedule import Step
from fapool.spec import RunSpec
from fapool.topology import home_deal
from fapool.workload import Request

Chosen = list[tuple[list[int], Tensor]]


class HelixPlan:
    """One rank."""

    leased = 0
    leases = MappingProxyType({})
    bound = True

    def __init__(
        self, seat: Seat, spec: RunSpec, requests: Sequence[Request], *, keep_logits: bool = False
    ) -> None:
        deal = home_deal(spec)
        self._seat, self._decoder, self._deal = seat, seat.decoder(), deal
        shards = Shards(seat.shards, seat.span)
        self._shards = seat.stores or shards
        self.cache = seat.cache(spec, list(requests))
        self._blocks = {request.id: -(-request.cached // spec.block) for request in requests}
        self._tokens = Tokens(requests, vocab=spec.model.vocab, seed=spec.seed, device=seat.device)
        self.ending = Ending(seat, self._decoder, self._tokens, keep_logits=keep_logits)
        self._prefill = HelixPrefill(seat, self.cache, self._deal, shards)
        self._decode = Decode(
            seat, spec, requests, self.cache, lambda request: deal, [self._tokens.latest]
        )

    def run(self, step: Step) -> Chosen:
        """See `Plan.run`."""
        return self._run_decode(step) if step.kind == "decode" else self._run_prefill(step)

    def end(self, step: Step) -> None:
        """See `Plan.end`."""
        for request in step.finished:
            self.cache.free(request)

    def settle(self) -> None:
        """See `Plan.settle`; a collective is over when its step is."""

    def reset(self) -> None:
        """See `Plan.reset`."""
        self.cache.clear()

    def close(self) -> None:
        """See `Plan.close`."""
        self._decode.close()

    @property
    def held_bytes(self) -> int:
        """See `Plan.held_bytes`."""
        return self._decode.held_bytes

    def _run_prefill(self, step: Step) -> Chosen:
        with self._seat.span(Phase.PLAN_STEP):
            batch = Batch(step.kind, step.segments, self._seat.device)
            for segment in step.segments:
                if segment.request not in self.cache:
                    self._reserve(segment.request)
            work = self._prefill.plan(batch)
        with self._seat.span(Phase.EMBED):
            x = self._decoder.embed(self._tokens.inputs(batch))
        x = self._decoder.layers(
            x,
            batch.positions,
            lambda *layer_q_k_v: self._prefill.attend(work, *layer_q_k_v),
            self._seat.peers.sum,
        )
        emitters = batch.emitters
        if not emitters:
            return []
        tokens, logits = self.ending.choose(x[batch.index(batch.emitting)])
        self.ending.keep(emitters, logits)
        self._tokens.put(emitters, tokens)
        return [(emitters, tokens)]

    def _reserve(self, request: int) -> None:
        share = self._deal.blocks(self._blocks[request], self._seat.place.keeper)
        self.cache.reserve(request, share)

    def _run_decode(self, step: Step) -> Chosen:
        requests = [segment.request for segment in step.segments]
        tokens, logits = self._decode.run(step.segments, self._body)
        self.ending.keep(requests, logits)
        return [(requests, tokens[: len(requests)])]

    def _body(self, frames: list[Frame]) -> tuple[Tensor, Tensor]:
        """Token to token."""
        (frame,) = frames
        self._shards.begin(frame.size)
        with self._seat.span(Phase.EMBED):
            x = self._decoder.embed(self._tokens.latest.index_select(0, frame.ids))

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            part = attend_here(self._seat, self.cache, frame, layer, q, k, v)
            return self._shards.exchange(part, layer=layer)

        x = self._decoder.layers(x, frame.positions, attend, self._seat.peers.sum)
        return self.ending.decode(x, frame.ids)
