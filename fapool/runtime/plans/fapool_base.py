"""`FAPool` on a base rank: the whole model, its heads sliced over the base; attention of leased
requests asked of the pool ranks of its heads, merged with what was attended here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fapool.forecast.memory import base_blocks
from fapool.leases import Lease
from fapool.phases import Phase
from fapool.runtime.batch import Batch, indices, split
from fapool.runtime.decode import Decode
from fapool.runtime.frames import Frame
from fapool.runtime.plans.base import Ending, attend_here, take_turns
from fapool.runtime.plans.lending import Lending
from fapool.runtime.plans.messages import pack
from fapool.runtime.plans.prefill_base import BasePrefill
from fapool.runtime.plans.rolling import Flight, Rolling
from fapool.runtime.plans.shares import moved
from fapool.runtime.seat import Seat
from fapool.runtime.tokens import Tokens
from fapool.schedule import Segment, Step
from fapool.spec import RunSpec
from fapool.topology import kv_senders
from fapool.workload import Request


class FAPoolBase:
    """One base rank."""

    def __init__(
        self, seat: Seat, spec: RunSpec, requests: Sequence[Request], *, keep_logits: bool = False
    ) -> None:
        self._seat, self._place, self._spec = seat, seat.place, spec
        self._decoder = seat.decoder()
        self.cache = seat.cache(spec, list(requests))
        self._requests = {request.id: request for request in requests}
        self._tokens = Tokens(requests, vocab=spec.model.vocab, seed=spec.seed, device=seat.device)
        self._lending = Lending(spec, requests, seat.span)
        sent, held = kv_senders(spec.model, spec.plan)[seat.place.rank], seat.place.kv_heads.start
        self._copied = spec.plan.kv == "shared"
        self._sent = slice(sent.start - held, sent.stop - held)
        self._prefill = prefill = BasePrefill(seat, spec, self.cache, self._lending, self._sent)
        # Not by way of `self`: a plan in a cycle would outlive its last use, and so its keys.
        self._rolling = Rolling(
            lambda flight, *query: prefill.ask(flight.work, flight.slot, *query),
            lambda flight: prefill.attend(flight.work, flight.posted),
            seat.span,
        )
        self.ending = Ending(seat, self._decoder, self._tokens, keep_logits=keep_logits)
        self._decode = Decode(
            seat, spec, requests, self.cache, self._lending.deal, [self._tokens.latest]
        )

    def run(self, step: Step) -> list[tuple[list[int], Tensor]]:
        """See `Plan.run`."""
        for lease in self._lending.grant(step):
            self._hand_over(lease)
        for segment in step.segments:
            if segment.request not in self.cache:
                self._reserve(segment.request)
        return self._run_decode(step) if step.kind == "decode" else self._run_prefill(step)

    def end(self, step: Step) -> None:
        """See `Plan.end`."""
        self._lending.end(step)
        for request in step.finished:
            self.cache.free(request)

    def settle(self) -> None:
        """See `Plan.settle`."""
        self._land()
        self._seat.transport.drain()

    def reset(self) -> None:
        """See `Plan.reset`."""
        self._rolling.clear()
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
        return len(self._lending.leases)

    def _reserve(self, request: int) -> None:
        """Blocks for all that a request will have here under its present deal."""
        if request in self._lending.leases:
            total = -(-self._requests[request].cached // self._spec.block)
        else:
            total = base_blocks(self._spec, self._requests[request])
        self.cache.reserve(request, self._lending.deal(request).blocks(total, self._place.keeper))

    def _hand_over(self, lease: Lease) -> None:
        """Send a request's keys to its columns, keep what the base keeps, forget the rest."""
        cache, request = self.cache, lease.request
        if request not in cache:
            return
        deal, kept = self._lending.deal(request), None
        for keeper in deal.keepers:
            taken = moved(request, lease.tokens, deal, keeper, self._spec.block)
            if not taken.runs:
                continue
            k, v = cache.read(self._slots(request, taken.rows))
            if keeper == self._place.keeper:
                kept = taken, k, v
            elif self._sent.stop > self._sent.start:
                message = pack(k[:, :, self._sent], v[:, :, self._sent])
                self._seat.transport.send(message, self._place.partners[keeper], Phase.SEND_KV)
        cache.free(request)
        self._reserve(request)
        if kept:
            taken, k, v = kept
            cache.write(self._slots(request, taken.positions), k, v)

    def _slots(self, request: int, positions: Sequence[int]) -> Tensor:
        return indices([self.cache.slots(request, positions)], self._seat.device)[0]

    def _run_prefill(self, step: Step) -> list[tuple[list[int], Tensor]]:
        """Start the pieces, each when its slot is free; the last layers of all but the first may
        end in the next step, while its pieces are attended, if it is a prefill, too.
        """
        pieces, chosen = self._lending.pieces(step), []
        for slot, segments in enumerate(pieces):
            while self._rolling.holds(slot):
                chosen += self._turn()
            self._rolling.start(self._flight(step, slot, segments, len(pieces) > 1))
        if step.first_tokens:
            return chosen + self._land()
        while self._rolling.holds(0):
            chosen += self._turn()
        return chosen

    def _flight(
        self, step: Step, slot: int, segments: tuple[Segment, ...], labelled: bool
    ) -> Flight:
        seat = self._seat
        with seat.span(Phase.PLAN_STEP):
            batch = Batch(step.kind, segments, seat.device)
            work = self._prefill.plan(batch, step.index, slot)
        with seat.span(Phase.EMBED):
            x = self._decoder.embed(self._tokens.inputs(batch))
        walk = self._decoder.walk(x, batch.positions, seat.peers.sum)
        return Flight(slot, work, walk, slot if labelled else -1)

    def _land(self) -> list[tuple[list[int], Tensor]]:
        """See the pieces that are under way to their ends."""
        chosen = []
        while self._rolling:
            chosen += self._turn()
        if self._seat.lanes:
            self._seat.lanes.drain()
        return chosen

    def _turn(self) -> list[tuple[list[int], Tensor]]:
        """One piece's next layer; the tokens that it ends with, if any."""
        chosen = []
        for flight, x in self._rolling.turn():
            batch = flight.work.batch
            if emitters := batch.emitters:
                tokens, logits = self.ending.choose(x[batch.index(batch.emitting)])
                self.ending.keep(emitters, logits)
                self._tokens.put(emitters, tokens)
                chosen.append((emitters, tokens))
        return chosen

    def _run_decode(self, step: Step) -> list[tuple[list[int], Tensor]]:
        shape, parts = self._lending.shape(step), self._lending.parts(step)
        sizes, tokens, logits = self._decode.run(step.segments, self._body, shape, parts)
        chosen, start = [], 0
        for size, segments in zip(sizes, split(step.segments, parts), strict=True):
            requests, rows = [s.request for s in segments], slice(start, start + len(segments))
            self.ending.keep(requests, logits[rows])
            chosen.append((requests, tokens[rows]))
            start += size
        self._seat.transport.drain()
        return chosen

    def _body(self, frames: list[Frame], asks: bool, here: bool):
        """Token to token; `asks`: the pool has keys of somebody, `here`: the base has."""
        seat, links = self._seat, self._seat.links
        if asks:
            for link, frame in zip(links, frames, strict=False):
                link.begin(frame.size)
        walks = []
        for frame in frames:
            with seat.span(Phase.EMBED):
                x = self._decoder.embed(self._tokens.latest.index_select(0, frame.ids))
            walks.append(self._decoder.walk(x, frame.positions, seat.peers.sum))

        def post(number: int, layer: int, q: Tensor, k: Tensor, v: Tensor):
            if asks:
                new_k, new_v = k[:, self._sent], v[:, self._sent]
                owners = None if self._copied else frames[number].owners
                links[number].ask(layer, q, new_k, new_v, owners)
            return layer, q, k, v

        def wait(number: int, posted: tuple) -> Tensor:
            frame = frames[number]
            own = attend_here(seat, self.cache, frame, *posted) if here else None
            return links[number].collect(posted[0], own) if asks else own.out

        x = torch.cat(take_turns(walks, post, wait, seat.span))
        sizes = [frame.size for frame in frames]
        return sizes, *self.ending.decode(x, torch.cat([frame.ids for frame in frames]))
