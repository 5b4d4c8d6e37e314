"""Steps as graphs: what every rank did in them, cut where others waited for it.

A step of all ranks reaches from the last end of the step before to its own last end, so that the
steps of a repeat follow each other without a gap; the first begins when the last rank began.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from fapool.analysis import exchanges, intervals
from fapool.analysis.breakdown import ORDER
from fapool.analysis.exchanges import Exchanges
from fapool.analysis.intervals import Times
from fapool.analysis.kinds import of_kind
from fapool.analysis.lanes import GAP, Lane, lanes
from fapool.analysis.load import Tables
from fapool.analysis.sampled import recorded
from fapool.analysis.steps.replay import Arrival, Piece, Ranks, chain, replay
from fapool.phases import Category

_WAITING = ORDER.index(Category.SYNCHRONIZATION)


@dataclass(frozen=True, kw_only=True)
class StepGraph:
    """One step of all ranks: pieces of each, cut at arrivals, and when each was done with it."""

    repeat: int
    step: int
    start_ns: int
    ends_ns: dict[int, int]
    ranks: Ranks
    categories: np.ndarray  # of each event
    layers: np.ndarray

    @property
    def wall_ns(self) -> int:
        """Its length."""
        return max(self.ends_ns.values()) - self.start_ns

    def path(self) -> pd.DataFrame:
        """Its critical path: repeat, step, rank, category, phase, layer, start_ns, end_ns, in time.

        Disjoint rows that fill the step, to the nanosecond: asserted. A wait that is on it is one
        whose end nobody's arrival explains.
        """
        end = max(self.ends_ns.values())
        last = min(rank for rank, at in self.ends_ns.items() if at == end)
        rows, until = [], end
        for rank, since, piece in chain(self.ranks, last, self.start_ns, end):
            known = piece.event >= 0
            category = self.categories[piece.event] if known else Category.IDLE.value
            if piece.waiting:
                category = Category.SYNCHRONIZATION.value
            layer = int(self.layers[piece.event]) if known else -1
            head = (self.repeat, self.step, rank, category, piece.phase, layer)
            rows.append((*head, since, until))
            until = since
        names = ["repeat", "step", "rank", "category", "phase", "layer", "start_ns", "end_ns"]
        found = pd.DataFrame(rows[::-1], columns=names)
        lengths = found["end_ns"] - found["start_ns"]
        assert lengths.sum() == self.wall_ns, "a critical path is as long as its step"
        assert (lengths >= 0).all(), "a critical path goes back in time"
        return found

    def without(self, phase: str | None) -> int:
        """Its length in ns if spans of `phase` took no time; None: as it was, to the nanosecond."""
        return replay(self.ranks, self.start_ns, self.ends_ns, phase)

    def phases(self) -> set[str]:
        """All that were seen in it."""
        return {p.phase for own in self.ranks.values() for p in own if p.phase}


def step_graphs(
    tables: Tables, *, kind: str | None = "decode", most: int, met: Exchanges | None = None
) -> Iterator[StepGraph]:
    """The graphs of at most `most` steps of a kind that had spans, evenly taken.

    `met`: the exchanges of the tables' events, where they were matched before.
    """
    steps = of_kind(tables.steps[recorded(tables.steps)], kind)
    chosen = steps[["repeat", "step"]].drop_duplicates().to_numpy().tolist()
    picked = np.unique(np.linspace(0, len(chosen) - 1, min(most, len(chosen))).round().astype(int))
    yield from _graphs(tables, [tuple(chosen[i]) for i in picked], met)


def step_graph(tables: Tables, *, repeat: int, step: int) -> StepGraph:
    """The graph of one step, which there must be."""
    return next(_graphs(tables, [(repeat, step)]))


def _graphs(
    tables: Tables, chosen: list[tuple[int, int]], met: Exchanges | None = None
) -> Iterator[StepGraph]:
    met = met or exchanges.match(tables.events)
    by_step = {key: rows for key, rows in tables.steps.groupby(["repeat", "step"])}
    near = _near(tables.events, [by_step[key] for key in chosen], met)
    events, met = tables.events.iloc[near], met.of_rows(near)
    waits = _waits(events, met)
    pieces = lanes(events, waits.arrival_ns)
    categories, layers = (events[name].to_numpy() for name in ("category", "layer"))
    phases = events["phase"].to_numpy()
    for repeat, step in chosen:
        rows = by_step[repeat, step]
        start = int(rows["start_ns"].max())
        ends = dict(zip(rows["rank"].tolist(), rows["end_ns"].tolist(), strict=True))
        ends = {rank: max(end, start) for rank, end in ends.items()}
        own = {rank: pieces.get((repeat, rank)) for rank in ends}
        yield StepGraph(
            repeat=repeat,
            step=step,
            start_ns=start,
            ends_ns=ends,
            ranks=_pieces(own, start, ends, waits, phases),
            categories=categories,
            layers=layers,
        )


def _near(events: pd.DataFrame, chosen: list[pd.DataFrame], met: Exchanges) -> np.ndarray:
    """Rows of the events in chosen steps, and of all exchanges that any of these is of."""
    start, end, repeat = (events[name].to_numpy() for name in ("start_ns", "end_ns", "repeat"))
    found = np.zeros(len(events), bool)
    windows: dict[int, list[tuple[int, int]]] = {}
    for rows in chosen:
        span = int(rows["start_ns"].min()), int(rows["end_ns"].max())
        windows.setdefault(int(rows["repeat"].iloc[0]), []).append(span)
    for number, spans in windows.items():
        times = intervals.union(np.array(spans, np.int64))
        first = np.searchsorted(times[:, 1], start, "left")  # the window that ends no sooner
        reached = times[np.minimum(first, len(times) - 1), 0] <= end
        found |= (repeat == number) & (first < len(times)) & reached
    known = np.zeros(met.exchange.max(initial=-1) + 2, bool)
    known[met.exchange[found]] = True
    known[-1] = False  # of no exchange
    return np.flatnonzero(found | known[met.exchange])


@dataclass(frozen=True)
class _Waits:
    """Of each event: whose arrival ended its waiting, and all arrivals that it waited for."""

    awaited: np.ndarray
    arrival_ns: np.ndarray
    _span: np.ndarray  # number of the wait that serves this event's exchange, maybe among others
    _members: dict[int, np.ndarray]  # of a wait, its exchanges
    _arrivals: dict[int, np.ndarray]  # of an exchange: rows (rank, ns)

    def sources(self, event: int, rank: int) -> tuple[Arrival, ...]:
        """Arrivals of others that a span of `rank` waits for."""
        found = {
            (int(other), int(time_ns))
            for exchange in self._members.get(int(self._span[event]), ())
            for other, time_ns in self._arrivals.get(int(exchange), ())
        }
        return tuple(sorted(source for source in found if source[0] != rank))


def _waits(events: pd.DataFrame, met: Exchanges) -> _Waits:
    waits = np.flatnonzero(met.awaited >= 0)
    rank = events["rank"].to_numpy(np.int64)
    came = np.column_stack([rank, met.arrived_ns])[met.arrives]
    return _Waits(
        met.awaited,
        met.arrival_ns,
        met.span,
        _grouped(met.span[waits], met.exchange[waits]),
        _grouped(met.exchange[met.arrives], came),
    )


def _grouped(keys: np.ndarray, rows: np.ndarray) -> dict[int, np.ndarray]:
    order = np.argsort(keys, kind="stable")
    found, first = np.unique(keys[order], return_index=True)
    return (
        dict(zip(found.tolist(), np.split(rows[order], first[1:]), strict=True))
        if len(found)
        else {}
    )


def _pieces(
    own: dict[int, Lane | None], start: int, ends: dict[int, int], waits: _Waits, phases: np.ndarray
) -> Ranks:
    stop = max(ends.values())
    parts = {rank: _between(lane, start, stop) for rank, lane in own.items()}
    cuts: dict[int, set[int]] = {rank: {start, stop, end} for rank, end in ends.items()}
    sources: dict[int, tuple[Arrival, ...]] = {-1: ()}
    for rank, (_, _, events) in parts.items():
        for event in np.unique(events[events >= 0]).tolist():
            # a rank that lacks this step explains nothing of it
            sources[event] = waits.sources(event, rank) if waits.awaited[event] in cuts else ()
            for other, time_ns in sources[event]:
                if other in cuts and start < time_ns < stop:
                    cuts[other].add(time_ns)
    return {
        rank: [
            _piece(times, code, event, waits, sources[event], phases[event] if event >= 0 else "")
            for times, code, event in _cut(*part, cuts[rank])
        ]
        for rank, part in parts.items()
    }


def _cut(times: Times, code: np.ndarray, event: np.ndarray, cuts: set[int]) -> Iterator[tuple]:
    edges = np.array(sorted(cuts), np.int64)
    row, _, pieces = intervals.overlaps(times, np.column_stack([edges[:-1], edges[1:]]))
    yield from zip(pieces.tolist(), code[row].tolist(), event[row].tolist(), strict=True)


def _piece(
    times: list[int], code: int, event: int, waits: _Waits, sources: tuple[Arrival, ...], phase: str
) -> Piece:
    last = (int(waits.awaited[event]), int(waits.arrival_ns[event])) if sources else None
    waiting = event >= 0 and waits.awaited[event] >= 0 and code == _WAITING
    return Piece(
        start_ns=times[0],
        end_ns=times[1],
        event=event,
        phase=phase,
        waiting=bool(waiting),
        last=last,
        sources=sources,
    )


def _between(lane: Lane | None, start: int, stop: int) -> tuple[Times, np.ndarray, np.ndarray]:
    """(times, code, event) of all of [start, stop), gaps among them, whose event is -1."""
    times = lane.times if lane else intervals.EMPTY
    near = slice(
        np.searchsorted(times[:, 1], start, "right"), np.searchsorted(times[:, 0], stop, "left")
    )
    times = np.clip(times[near], start, stop)
    edges = np.r_[start, times.ravel(), stop].reshape(-1, 2)
    gaps = edges[edges[:, 1] > edges[:, 0]]
    code = np.r_[lane.code[near] if lane else [], np.full(len(gaps), GAP)].astype(np.int64)
    event = np.r_[lane.event[near] if lane else [], np.full(len(gaps), -1)].astype(np.int64)
    both = np.concatenate([times, gaps])
    order = np.argsort(both[:, 0], kind="stable")
    return both[order], code[order], event[order]
