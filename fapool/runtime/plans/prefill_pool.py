"""A prefill on a pool rank of `FAPool`: queries and new keys in, partials out, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fapool.phases import Phase
from fapool.runtime.attention.base import over
from fapool.runtime.batch import Batch
from fapool.runtime.kvcache import KVCache
from fapool.runtime.partial import Partial
from fapool.runtime.plans.lending import Lending
from fapool.runtime.plans.messages import pack_partial, unpack
from fapool.runtime.plans.shares import Share, share
from fapool.runtime.rows import Rows
from fapool.runtime.seat import Seat
from fapool.schedule import Step
from fapool.spec import RunSpec
from fapool.topology import Place, kv_senders
from fapool.topology import place as place_of


@dataclass(frozen=True)
class Work:
    """This rank's share of a step: the same for every layer."""

    share: Share
    slots: Tensor  # [nS]
    views: tuple[tuple[slice, Rows], ...]  # rows of the query message, and what they may see


def pool_partners(spec: RunSpec, place: Place) -> tuple[tuple[int, int, int], ...]:
    """(base rank, its heads, KV heads that it sends) of a pool rank's partners."""
    sent = kv_senders(spec.model, spec.plan)
    return tuple(
        (base, len(place_of(spec, base).heads), len(sent[base])) for base in place.partners
    )


class PoolPrefill:
    """Serves prefill steps."""

    def __init__(self, seat: Seat, spec: RunSpec, cache: KVCache, lending: Lending) -> None:
        self._seat, self._place, self._spec = seat, seat.place, spec
        self._cache, self._lending = cache, lending
        self._like = torch.empty(0, dtype=seat.dtype, device=seat.device)
        self._partners = pool_partners(spec, seat.place)

    def run(self, step: Step) -> None:
        """Serve every layer of a step, if it has to do with this rank."""
        with self._seat.span(Phase.PLAN_STEP):
            work = self._plan(step)
        if work is not None:
            for layer in self._place.layers:
                self._serve(work, layer)
            self._seat.transport.drain()

    def _plan(self, step: Step) -> Work | None:
        lending, cache, block = self._lending, self._cache, self._spec.block
        here = [s for s in step.segments if s.request in cache]
        if not here:
            return None
        batch = Batch(step.kind, step.segments, self._seat.device)
        deals = {s.request: lending.deal(s.request) for s in here}
        mine = share(batch, self._place.keeper, deals, block, requests=deals)
        for s in here:
            cache.tokens[s.request] = deals[s.request].tokens(s.end, block, self._place.keeper)
        if mine.is_empty:
            return None
        slots = [at for s in mine.stored for at in cache.slots(s.request, s.positions)]
        return Work(mine, batch.index(slots), tuple(self._views(mine)))

    def _views(self, mine: Share):
        """One request after the other."""
        start = 0
        for asked in mine.asked:
            rows = slice(start, start + len(asked.rows))
            yield rows, self._cache.rows([asked.request], [asked.visible])
            start = rows.stop

    def _serve(self, work: Work, layer: int) -> None:
        """Take in queries and new keys, answer with partials."""
        asked, stored = len(work.share.asked_rows), len(work.share.stored_rows)
        messages = self._messages(layer, asked, stored)
        if stored:
            with self._seat.span(Phase.APPEND_KV, layer=layer):
                k = torch.cat([k for _, k, _ in messages], dim=1)
                v = torch.cat([v for _, _, v in messages], dim=1)
                self._cache.append(layer, work.slots, k, v)
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
        backend = self._seat.backends.prefill
        parts = [
            over(backend, q[at].unsqueeze(0), self._cache.view(layer, rows))
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
