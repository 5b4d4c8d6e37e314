"""Who made whom wait, how long, and what kept them: every nanosecond of every wait, once.

A message's wait is for its sender until the post; a collective's for its last participant. What
kept that rank is what it did meanwhile, from its own spans: a wait of its own, if it waited too.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fapool.analysis import exchanges, intervals
from fapool.analysis.breakdown import ORDER, Breakdown
from fapool.analysis.exchanges import Exchanges
from fapool.analysis.intervals import Times
from fapool.analysis.kinds import of_kind
from fapool.analysis.lanes import Key, Lane, lanes
from fapool.analysis.load import STEP_KEYS, Tables
from fapool.phases import Category, Phase

UNKNOWN = "nothing recorded"
_WAITING = ORDER.index(Category.SYNCHRONIZATION)
WAITS = frozenset(
    phase.value
    for phase in Phase
    if phase.category is Category.SYNCHRONIZATION or phase.startswith("wait_")
)
"""Phases in which a rank waits itself: no cause of another's wait."""

KEYS = ["rank", "awaited", "phase", "busy_with"]


def waits(tables: Tables, parted: Breakdown, met: Exchanges | None = None) -> pd.DataFrame:
    """Rows repeat, rank, step, kind, awaited, phase, busy_with, ns, exchanges; of recorded steps.

    `rank` waited for `awaited` in spans of `phase`, while that was `busy_with` a phase of its own.
    `exchanges` counts them, at the phase in which each ended. The ns of a rank's step are,
    to the nanosecond, its synchronization but for barriers: asserted. `met`: the exchanges of the
    tables' events, where they were matched before.
    """
    met = met or exchanges.match(tables.events)
    pieces = lanes(tables.events, met.arrival_ns)
    events = tables.events.assign(awaited=met.awaited)
    events["until_ns"] = np.minimum(met.arrival_ns, events["end_ns"])
    kept = tables.steps.merge(parted.steps[STEP_KEYS]).sort_values(STEP_KEYS)
    steps = {key: rows for key, rows in kept.groupby(["repeat", "rank"])}
    parts = [_of_rank(pieces, key, events, steps[key]) for key in pieces if key in steps]
    found = pd.concat([part for part in parts if len(part)] or [_empty()], ignore_index=True)
    keys = [*STEP_KEYS, "kind", *KEYS[1:]]
    found = found.groupby(keys, as_index=False, sort=True)[["ns", "exchanges"]].sum()
    _check(found, parted, set(tables.events.loc[met.awaited >= 0, "phase"]))
    return found


def stragglers(rows: pd.DataFrame, parted: Breakdown, kind: str | None = "decode") -> pd.DataFrame:
    """`waits` over all steps of a kind: `KEYS`, ms and exchanges, means per step of the waiter.

    The longest first.
    """
    steps = of_kind(parted.steps, kind)
    rows = of_kind(rows, kind)
    count = steps.groupby("rank").size()
    found = rows.groupby(KEYS, as_index=False)[["ns", "exchanges"]].sum()
    per_step = found["rank"].map(count)
    found["ms"] = found.pop("ns") / per_step / 1e6
    found["exchanges"] = found["exchanges"] / per_step
    return found.sort_values("ms", ascending=False, ignore_index=True)


def sentences(rows: pd.DataFrame, kind: str = "decode", top: int = 3) -> list[str]:
    """The longest rows of `stragglers` in words, of ranks that did not wait themselves, if any."""
    causes = rows[~rows["busy_with"].isin(WAITS)]
    chosen = (causes if len(causes) else rows).head(top)
    return [
        f"rank {row.rank} waits {row.ms:.3f} ms per {kind} step for rank {row.awaited} "
        f"({row.phase}; {_meanwhile(row.busy_with)})"
        for row in chosen.itertuples()
    ]


def _meanwhile(busy_with: str) -> str:
    return f"itself waiting in {busy_with}" if busy_with in WAITS else f"busy with {busy_with}"


def _of_rank(
    pieces: dict[Key, Lane], key: Key, events: pd.DataFrame, steps: pd.DataFrame
) -> pd.DataFrame:
    """One rank's waits in one repeat, cut at its steps' borders and by what kept the others."""
    lane, awaited = pieces[key], events["awaited"].to_numpy()
    rows = np.flatnonzero((lane.code == _WAITING) & (awaited[lane.event] >= 0))
    spans = steps[["start_ns", "end_ns"]].to_numpy(np.int64)
    piece, step, cut = intervals.overlaps(lane.times[rows], spans)
    event = lane.event[rows][piece]
    ended = cut[:, 1] == events["until_ns"].to_numpy()[event]
    phase, found = events["phase"].to_numpy(), [_empty()]
    for other in np.unique(awaited[event]):
        mine = np.flatnonzero(awaited[event] == other)
        part, busy, ns, last = _kept_by(pieces.get((key[0], int(other))), cut[mine], phase)
        row = mine[part]
        columns = {"repeat": key[0], "rank": key[1], "awaited": int(other), "busy_with": busy}
        columns |= {name: steps[name].to_numpy()[step[row]] for name in ("step", "kind")}
        columns |= {"phase": phase[event[row]], "ns": ns, "exchanges": (last & ended[row]) * 1}
        found.append(pd.DataFrame(columns))
    return pd.concat(found, ignore_index=True) if len(found) > 1 else found[0]


def _kept_by(
    lane: Lane | None, cut: Times, phase: NDArray
) -> tuple[NDArray, NDArray, NDArray, NDArray]:
    """What a rank did in each interval: row of `cut`, phase, ns, and whether it is the last."""
    if lane is None:
        rows = np.arange(len(cut))
        return rows, np.full(len(cut), UNKNOWN, object), cut[:, 1] - cut[:, 0], rows >= 0
    row, piece, both = intervals.overlaps(cut, lane.times)
    names = phase[lane.event[piece]]
    lengths = both[:, 1] - both[:, 0]
    rest = (cut[:, 1] - cut[:, 0]).copy()
    np.subtract.at(rest, row, lengths)
    empty = np.flatnonzero(rest > 0)
    row = np.r_[row, empty]
    names = np.r_[names, np.full(len(empty), UNKNOWN, object)]
    last = np.zeros(len(row), bool)
    last[np.unique(row[::-1], return_index=True)[1]] = True
    return row, names, np.r_[lengths, rest[empty]], last[::-1]


def _empty() -> pd.DataFrame:
    numbers = ("repeat", "rank", "step", "awaited", "ns", "exchanges")
    columns = {name: pd.Series(dtype=np.int64) for name in numbers}
    words = ("kind", "phase", "busy_with")
    return pd.DataFrame(columns | {name: pd.Series(dtype=object) for name in words})


def _check(found: pd.DataFrame, parted: Breakdown, phases: set[str]) -> None:
    shares = parted.shares
    waited = shares[(shares["category"] == Category.SYNCHRONIZATION) & shares["phase"].isin(phases)]
    told = found.groupby(STEP_KEYS)["ns"].sum()
    counted = waited.groupby(STEP_KEYS)["ns"].sum()
    assert told.sub(counted, fill_value=0).eq(0).all(), "waits do not sum to synchronization"
