"""A prefill on a pool rank of `FAPool`: queries and new keys in, partials out, piece by piece of
a layer, layer by layer. Ranks of a team pass each other partials first, each for a run of rows.

    shapes:  nA queries, nR of them answered here, nS new keys, H heads and K KV heads of the head
             group, D head dim
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fapool.phases import Phase
from fapool.runtime.attention.base import over
from fapool.runtime.batch import Batch, indices
from fapool.runtime.exchange.lane import Arrival, Stop
from fapool.runtime.exchange.link import column_ranks
from fapool.runtime.kvcache import KVCache
from fapool.runtime.partial import Partial, lse_dtype
from fapool.runtime.plans.answers import teamwork
from fapool.runtime.plans.lending import Lending
from fapool.runtime.plans.prefill_team import Merging
from fapool.runtime.plans.shares import Share, number_of, share, slots_of
from fapool.runtime.rows import Rows
from fapool.runtime.seat import Seat
from fapool.schedule import Segment, Step
from fapool.spec import RunSpec
from fapool.topology import Place, kv_senders
from fapool.topology import place as place_of


@dataclass(frozen=True)
class Work:
    """This rank's share of a piece: the same for every layer."""

    slot: int
    number: int  # of its first exchange
    num_asked: int
    num_stored: int
    slots: Tensor  # [nS]
    views: tuple[tuple[slice, Rows], ...]  # rows of the queries, and what they may see
    team: Merging | None  # None: every query is answered as it was attended here

    def stop(self, layer: int) -> Stop:
        """Where a layer's exchange belongs."""
        return Stop(self.slot, layer, self.number + layer)


def pool_partners(spec: RunSpec, place: Place) -> tuple[tuple[int, int, int], ...]:
    """(base rank, its heads, KV heads that it sends) of a pool rank's partners."""
    sent = kv_senders(spec.model, spec.plan)
    return tuple(
        (base, len(place_of(spec, base).heads), len(sent[base])) for base in place.partners
    )


class PoolPrefill:
    """Serves prefill steps."""

    def __init__(self, seat: Seat, spec: RunSpec, cache: KVCache, lending: Lending) -> None:
        self._seat, self._place, self._block = seat, seat.place, spec.block
        self._dim = spec.model.head_dim
        self._cache, self._lending = cache, lending
        self._partners = pool_partners(spec, seat.place)
        self._ranks = column_ranks(spec, seat.place)

    def run(self, step: Step) -> None:
        """Serve every layer of a step, as far as it has to do with this rank."""
        with self._seat.span(Phase.PLAN_STEP):
            pieces = self._lending.pieces(step)
            works = [self._plan(step, slot, piece) for slot, piece in enumerate(pieces)]
        turns = [(work, layer) for layer in self._place.layers for work in works if work]
        coming = None
        for (work, layer), following in zip(turns, [*turns, None][1:], strict=True):
            coming = coming or self._expect(work, layer)
            # Announced now: by messages it comes while this one is attended.
            then = self._expect(*following) if self._ahead(work, layer, following) else None
            self._seat.span.micro_batch = work.slot if len(pieces) > 1 else -1
            self._serve(work, layer, coming)
            self._seat.span.micro_batch = -1
            coming = then
            self._seat.lanes.queries.let_go(work.slot)

    def _ahead(self, work: Work, layer: int, following: tuple[Work, int] | None) -> bool:
        """Whether the receive of `following` may be posted before `work` is answered.

        NCCL's spins on the device until the message is there, and a kernel's first launch may make
        the host wait until the device is idle. So it must neither hinge on this answer, as the
        next layer of the same piece does, nor spin while kernels of a piece are launched for the
        first time: its first layer.
        """
        return following is not None and following[0] is not work and layer > self._place.layers[0]

    def _plan(self, step: Step, slot: int, segments: tuple[Segment, ...]) -> Work | None:
        cache, keeper, block = self._cache, self._place.keeper, self._block
        deals = {s.request: self._lending.deal(s.request) for s in segments if s.request in cache}
        if not deals:
            return None
        batch = Batch(step.kind, segments, self._seat.device)
        mine = share(batch, keeper, deals, block, requests=deals, team=self._place.team)
        for s in segments:
            if s.request in deals:
                cache.tokens[s.request] = deals[s.request].tokens(s.end, block, keeper)
        if mine.is_empty:
            return None
        shared = teamwork(mine, keeper)
        return Work(
            slot,
            number_of(step.index, slot, len(self._place.layers)),
            mine.num_asked,
            mine.num_stored,
            indices([slots_of(mine, cache.tables, block)], self._seat.device)[0],
            tuple(self._views(mine)),
            Merging(self._seat, shared, batch, self._ranks) if shared else None,
        )

    def _views(self, mine: Share):
        """One request after the other."""
        start = 0
        for asked in mine.asked:
            rows = slice(start, start + len(asked.rows))
            yield rows, self._cache.rows([asked.request], [asked.visible])
            start = rows.stop

    def _expect(self, work: Work, layer: int) -> Arrival:
        dim, dtype = self._dim, self._seat.dtype
        return self._seat.lanes.queries.expect(
            work.stop(layer),
            [
                (
                    base,
                    [
                        ((work.num_asked, heads, dim), dtype),
                        ((work.num_stored, kv, dim), dtype),
                        ((work.num_stored, kv, dim), dtype),
                    ],
                )
                for base, heads, kv in self._partners
            ],
        )

    def _serve(self, work: Work, layer: int, coming: Arrival) -> None:
        """Take in queries and new keys, answer with partials."""
        messages = coming.wait()
        with self._seat.span(Phase.PACK, layer=layer):
            q, k, v = (_joined(heads, 1) for heads in zip(*messages, strict=True))
        if work.num_stored:
            with self._seat.span(Phase.APPEND_KV, layer=layer):
                self._cache.append(layer, work.slots, k, v)
        parts = []
        if work.num_asked:
            with self._seat.span(Phase.ATTEND_PARTIAL, layer=layer):
                parts = [
                    over(
                        self._seat.backends.prefill,
                        q[rows].unsqueeze(0),
                        self._cache.view(layer, seen),
                    )
                    for rows, seen in work.views
                ]
        with self._seat.span(Phase.PACK, layer=layer):
            part = _whole(parts, q)
        if work.team:
            part = work.team.merged(work.stop(layer), part)
        self._answer(work, layer, part)

    def _answer(self, work: Work, layer: int, part: Partial) -> None:
        """Each partner gets its heads: out [nR, H, D], lse [H, nR]; nothing where nothing came."""
        out, lse = part.out, part.lse.T
        self._seat.lanes.answers.let_go(work.slot)
        with self._seat.span(Phase.PACK, layer=layer):
            first, parcels = 0, []
            for base, heads, _ in self._partners:
                mine = slice(first, first + heads)
                parcels.append((base, [out[:, mine].contiguous(), lse[mine].contiguous()]))
                first = mine.stop
        self._seat.lanes.answers.send(work.stop(layer), parcels)


def _whole(parts: Sequence[Partial], q: Tensor) -> Partial:
    """Partials of some queries each as one of them all; q [nA, H, D] itself where nA is 0."""
    if not parts:
        return Partial(q, q.new_empty(0, q.shape[1], dtype=lse_dtype(q.dtype)))
    lse = _joined([part.lse.T for part in parts], 1)
    return Partial(_joined([part.out for part in parts], 0), lse.T)


def _joined(parts: Sequence[Tensor], dim: int) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=dim)
