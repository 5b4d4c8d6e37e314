"""A prefill on a base rank of `FAPool`, in pieces: each over itself here, over what came before
where its keys lie, one parcel to each pool rank and one back per layer.

    shapes:  T rows of a piece, H heads, K KV heads, D head dim
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fapool.phases import Phase
from fapool.runtime.attention.base import causal, over
from fapool.runtime.batch import Batch, Selection, indices
from fapool.runtime.exchange.lane import Arrival, Stop
from fapool.runtime.kvcache import KVCache
from fapool.runtime.partial import Partial, lse_dtype
from fapool.runtime.plans.answers import Run, answers_to, merge_runs
from fapool.runtime.plans.lending import Lending
from fapool.runtime.plans.shares import Share, number_of, share, slots_of
from fapool.runtime.rows import Rows
from fapool.runtime.seat import Seat
from fapool.runtime.sequence.merging import merge_into
from fapool.spec import RunSpec


@dataclass(frozen=True)
class Query:
    """What goes to one pool rank in every layer of a piece."""

    pool_rank: int
    asked: Selection  # rows of the piece
    stored: Selection  # rows of the piece
    num_answered: int


@dataclass(frozen=True)
class Passage:
    """One segment of a piece: who attends over what came before it."""

    rows: slice
    past: Rows | None  # what of it the base has
    answers: tuple[Run, ...]  # of rows of the passage


@dataclass(frozen=True)
class Work:
    """A piece: what is attended and stored here, and what is asked of the pool."""

    batch: Batch
    number: int  # of its first exchange
    passages: tuple[Passage, ...]
    stored: Selection  # rows of the piece
    slots: Tensor
    queries: tuple[Query, ...]


@dataclass(frozen=True)
class Posted:
    """A layer of a piece that waits for the pool."""

    layer: int
    q: Tensor
    k: Tensor
    v: Tensor
    arrival: Arrival | None


class BasePrefill:
    """Plans and attends; `sent`: the KV heads of this rank that it sends to the pool."""

    def __init__(
        self, seat: Seat, spec: RunSpec, cache: KVCache, lending: Lending, sent: slice
    ) -> None:
        self._seat, self._block, self._cache = seat, spec.block, cache
        self._lending, self._sent = lending, sent

    def plan(self, batch: Batch, step: int, slot: int) -> Work:
        """What every layer of a piece needs; counts its tokens as cached."""
        place, cache = self._seat.place, self._cache
        deals = {s.request: self._lending.deal(s.request) for s in batch.segments}

        def part_of(keeper: int, team: Sequence[int]) -> Share:
            return share(batch, keeper, deals, self._block, requests=deals, team=team)

        mine = part_of(place.keeper, ())
        columns = [(column, team) for team in place.teams for column in team]
        asking = [(place.partners[column], part_of(column, team)) for column, team in columns]
        asking = [(rank, part) for rank, part in asking if not part.is_empty]
        stored, *picked = batch.selections(
            [mine.stored_rows]
            + [rows for _, part in asking for rows in (part.asked_rows, part.stored_rows)]
        )
        for s in batch.segments:
            cache.tokens[s.request] = deals[s.request].tokens(s.end, self._block, place.keeper)
        return Work(
            batch,
            number_of(step, slot, len(place.layers)),
            tuple(self._passages(batch, mine, [part for _, part in asking])),
            stored,
            indices([slots_of(mine, cache.tables, self._block)], batch.device)[0],
            tuple(
                Query(rank, picked[2 * i], picked[2 * i + 1], part.num_answered)
                for i, (rank, part) in enumerate(asking)
            ),
        )

    def _passages(self, batch: Batch, mine: Share, parts: list[Share]):
        here = {asked.request: asked.visible for asked in mine.asked}
        answers = answers_to(parts)
        for start, s in zip(batch.starts, batch.segments, strict=True):
            past = self._cache.rows([s.request], [here[s.request]]) if s.request in here else None
            answered = tuple(
                Run(slice(rows.start - start, rows.stop - start), tuple(found))
                for rows, found in answers.get(s.request, {}).items()
            )
            yield Passage(slice(start, start + s.length), past, answered)

    def ask(self, work: Work, slot: int, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Posted:
        """Send q [T, H, D], k and v [T, K, D] of a piece to whom they concern."""
        if not work.queries:
            return Posted(layer, q, k, v, None)
        lanes, (heads, dim) = self._seat.lanes, q.shape[1:]
        stop = Stop(slot, layer, work.number + layer)
        lanes.queries.let_go(slot)
        with self._seat.span(Phase.PACK, layer=layer):
            parcels = [
                (
                    query.pool_rank,
                    [
                        q[query.asked],
                        k[query.stored][:, self._sent].contiguous(),
                        v[query.stored][:, self._sent].contiguous(),
                    ],
                )
                for query in work.queries
            ]
        lanes.queries.send(stop, parcels)
        outlines = [
            (
                query.pool_rank,
                [
                    ((query.num_answered, heads, dim), q.dtype),
                    ((heads, query.num_answered), lse_dtype(q.dtype)),
                ],
            )
            for query in work.queries
        ]
        return Posted(layer, q, k, v, lanes.answers.expect(stop, outlines))

    def attend(self, work: Work, posted: Posted) -> Tensor:
        """The piece's attention [T, H, D], here and by the pool."""
        totals = self._own(work, posted)
        if posted.arrival is not None:
            answers = [Partial(out, lse.T) for out, lse in posted.arrival.wait()]
            with self._seat.span(Phase.MERGE, layer=posted.layer):
                for total, passage in zip(totals, work.passages, strict=True):
                    merge_runs(total, passage.answers, answers)
        if len(totals) == 1:
            return totals[0].out
        with self._seat.span(Phase.MERGE, layer=posted.layer):
            return torch.cat([total.out for total in totals])

    def _own(self, work: Work, posted: Posted) -> list[Partial]:
        """Every segment over itself, and over what the base keeps before it."""
        backend, layer = self._seat.backends.prefill, posted.layer
        q, k, v = posted.q, posted.k, posted.v
        if len(work.slots):
            with self._seat.span(Phase.APPEND_KV, layer=layer):
                self._cache.append(layer, work.slots, k[work.stored], v[work.stored])
        totals = []
        with self._seat.span(Phase.ATTEND, layer=layer):
            for passage in work.passages:
                rows = passage.rows
                part = causal(backend, q[rows], k[rows], v[rows])
                total = Partial(part.out.contiguous(), part.lse)
                if passage.past is not None:
                    view = self._cache.view(layer, passage.past)
                    merge_into(total, [over(backend, q[rows].unsqueeze(0), view)])
                totals.append(total)
        return totals
