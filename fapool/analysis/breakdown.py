"""Where every nanosecond of a step went: five disjoint parts that sum to its wall time.

By priority, on one rank: compute where a computation runs; communication where a transfer runs
and no computation; synchronization where a wait has begun and its transfer has not, or in a
barrier; management where the host plans and nothing else runs; idle where nothing was recorded.
At the live level a span's time is what its recorder declared, the host's or the device's, as
`steps.method` says. Where only some steps had spans, only they are parted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from fapool.analysis import exchanges, intervals
from fapool.analysis.exchanges import Exchanges
from fapool.analysis.intervals import Times
from fapool.analysis.load import STEP_KEYS, Tables
from fapool.analysis.sampled import recorded
from fapool.phases import Category, Phase

ORDER = tuple(Category)
PARTS = [f"{category}_ns" for category in ORDER]
_WAITING = ORDER.index(Category.SYNCHRONIZATION)
LEVELS = (*range(_WAITING + 1), *range(_WAITING, len(ORDER) - 1))
"""Places in ORDER, the first to claim a nanosecond first. Synchronization comes twice: a host that
waits for its own device waits for what that does, and only where it does nothing for the device."""

_LANE = ["repeat", "rank"]  # one rank in one repeat: the unit that has a clock and steps


@dataclass(frozen=True, kw_only=True)
class Breakdown:
    """The partition of a run.

    `steps`: one row per (repeat, rank, step) with role, kind, leased, wall_ns, the five `PARTS`,
    hidden_ns and weight: the wall time of all steps of its rank and kind over that of those that
    are here, 1 unless steps were sampled. `shares`: the same time by (repeat, rank, step,
    category, phase, layer) as `ns`, idle left out; the waiting part of a wait keeps its phase and
    counts as synchronization. Of concurrent spans of one category the earlier one is given the
    time; of those that begin at once, the one that ends last.

    hidden_ns: time in which an exchange was in flight (from the sender's post, or a collective's
    last arrival, to the end of the wait) while this rank computed. An upper bound: a transfer
    may be over long before its wait ends.

    `unmatched` of `exchanges` lacked a participant's record or had one too many; a wait none of
    whose senders is known counts as communication whole. Where steps were sampled, so does one for
    a message out of the step before (tokens between pipeline stages).
    """

    steps: pd.DataFrame
    shares: pd.DataFrame
    exchanges: int
    unmatched: int

    def __post_init__(self) -> None:
        parts = self.steps[PARTS].to_numpy()
        assert (parts >= 0).all(), "a part of a step is negative"
        assert (parts.sum(axis=1) == self.steps["wall_ns"]).all(), "parts do not sum to the wall"
        assert self.shares["ns"].sum() == parts[:, :-1].sum(), "phases do not sum to their parts"

    @property
    def words(self) -> str:
        """What it could not match; empty where it matched all."""
        if not self.unmatched:
            return ""
        lost = f"{self.unmatched:,} of {self.exchanges:,} exchanges lack a record"
        return f"{lost}: a wait for these alone counts as communication"


def breakdown(tables: Tables, met: Exchanges | None = None) -> Breakdown:
    """The partition of every step of every rank that had spans, in integer nanoseconds.

    `met`: the exchanges of the tables' events, where they were matched before.
    """
    met = met or exchanges.match(tables.events)
    return part(tables.events, tables.steps, met, met.arrival_ns)


def part(events: pd.DataFrame, steps: pd.DataFrame, met: Exchanges, arrival_ns: Times) -> Breakdown:
    """The partition of steps by any events; `arrival_ns` int64 [events] as of `Exchanges`."""
    spans = declared(events, arrival_ns)
    rows_of = spans.groupby(_LANE).indices
    windows_of = met.windows.groupby(_LANE).indices
    windows = met.windows[["start_ns", "end_ns"]].to_numpy(np.int64)
    kept = pd.Series(recorded(steps), steps.index)
    parts, shares = [], []
    for lane, own_steps in steps.groupby(_LANE):
        own = spans.iloc[rows_of.get(lane, [])]
        in_flight = intervals.union(windows[windows_of.get(lane, [])])
        parted, shared = _part(own, own_steps, in_flight)
        here = kept[own_steps.index].to_numpy()
        parts.append(parted[here])
        shares.append(shared[here[shared["bin"]]])
    return Breakdown(
        steps=_weighted(pd.concat(parts, ignore_index=True), steps),
        shares=_named(pd.concat(shares), events),
        exchanges=met.total,
        unmatched=met.unmatched,
    )


def _weighted(parted: pd.DataFrame, steps: pd.DataFrame) -> pd.DataFrame:
    """With `weight`: what the steps of a rank and kind stand for, over what they are."""
    keys = ["rank", "kind"]
    walls = (steps["end_ns"] - steps["start_ns"]).groupby([steps[key] for key in keys]).sum()
    own = parted.groupby(keys)["wall_ns"].transform("sum")
    whole = parted[keys].join(walls.rename("whole"), on=keys)["whole"]
    return parted.assign(weight=(whole / own.where(own > 0)).fillna(1.0))


def declared(events: pd.DataFrame, arrival_ns: Times) -> pd.DataFrame:
    """Spans with `code` (place in ORDER), `level` (place in LEVELS) and `event` (row).

    Waits are split at their arrival.
    """
    spans = events[[*_LANE, "start_ns", "end_ns"]].copy()
    spans["code"] = pd.Categorical(events["category"], list(ORDER)).codes
    own_device = (events["phase"] == Phase.DEVICE_SYNC).to_numpy()
    spans["level"] = spans["code"] + ((spans["code"] > _WAITING) | own_device)
    spans["event"] = np.arange(len(spans))
    split = np.clip(arrival_ns, spans["start_ns"].to_numpy(), spans["end_ns"].to_numpy())
    waiting = spans.assign(end_ns=split, code=_WAITING, level=_WAITING)
    late = (split > spans["start_ns"]).to_numpy()
    spans["start_ns"] = split
    return pd.concat([spans, waiting[late]], ignore_index=True)


def _part(
    spans: pd.DataFrame, steps: pd.DataFrame, in_flight: Times
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(parts per step, shares per span and step) of one rank in one repeat."""
    borders = np.r_[steps["start_ns"].to_numpy(), steps["end_ns"].to_numpy()[-1]]
    found = steps[[*STEP_KEYS, "role", "kind", "leased"]].copy()
    found["wall_ns"] = np.diff(borders)
    found[[*PARTS, "hidden_ns"]] = 0
    taken, shares = intervals.EMPTY, []
    for level, code in enumerate(LEVELS):
        part, rows = PARTS[code], spans[spans["level"] == level]
        pieces = _pieces(rows, borders)
        own = pieces["end_ns"] - pieces["start_ns"]
        own -= intervals.covered(taken, pieces["start_ns"], pieces["end_ns"])
        sums = np.zeros(len(steps), np.int64)
        np.add.at(sums, pieces["bin"], own)
        found[part] += sums
        shares.append(pieces.assign(ns=own, code=code)[own > 0])
        taken = intervals.union(taken, rows[["start_ns", "end_ns"]])
        if level == 0:
            both = intervals.intersect(taken, in_flight)
            found["hidden_ns"] = intervals.covered(both, borders[:-1], borders[1:])
    found[PARTS[-1]] = found["wall_ns"] - intervals.covered(taken, borders[:-1], borders[1:])
    shared = pd.concat(shares)
    for key in STEP_KEYS:
        shared[key] = steps[key].to_numpy()[shared["bin"]]
    return found, shared[[*STEP_KEYS, "bin", "code", "event", "ns"]]


def _pieces(spans: pd.DataFrame, borders: Times) -> pd.DataFrame:
    """Spans made disjoint (the earlier, of equals the longer keeps the overlap), cut at borders.

    Columns start_ns, end_ns, event, bin (index of the step).
    """
    rows = spans.iloc[np.lexsort((-spans["end_ns"], spans["start_ns"]))]
    start, end = (rows[name].to_numpy(np.int64) for name in ("start_ns", "end_ns"))
    reach = np.maximum.accumulate(end)
    start = np.maximum(start, np.r_[borders[0], reach[:-1]][: len(start)])
    start, end = np.maximum(start, borders[0]), np.minimum(end, borders[-1])
    kept = end > start
    start, end, event = start[kept], end[kept], rows["event"].to_numpy()[kept]
    first = np.searchsorted(borders, start, side="right") - 1
    count = np.searchsorted(borders, end, side="left") - first
    which = np.repeat(np.arange(len(start)), count)
    bins = np.arange(len(which)) - np.repeat(np.cumsum(count) - count, count) + first[which]
    return pd.DataFrame(
        {
            "start_ns": np.maximum(start[which], borders[bins]),
            "end_ns": np.minimum(end[which], borders[bins + 1]),
            "event": event[which],
            "bin": bins,
        }
    )


def _named(shares: pd.DataFrame, events: pd.DataFrame) -> pd.DataFrame:
    phase, phases = pd.factorize(events["phase"])
    rows = shares["event"].to_numpy()
    shares = shares.assign(phase=phase[rows], layer=events["layer"].to_numpy()[rows])
    keys = [*STEP_KEYS, "code", "phase", "layer"]
    summed = shares.groupby(keys, sort=True, as_index=False)["ns"].sum()
    summed["phase"] = phases.to_numpy()[summed["phase"]]
    summed.insert(3, "category", np.array(ORDER, object)[summed.pop("code")])
    return summed
