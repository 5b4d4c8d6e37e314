"""Each rank's time as disjoint pieces, every one of them of one span: what it did, and when.

The pieces are those that the breakdown counts: by priority of category, and of spans of one
category the earlier first; of those that begin at once, the one that ends last.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fapool.analysis import intervals
from fapool.analysis.breakdown import LEVELS, ORDER, declared
from fapool.analysis.intervals import Times

GAP = ORDER.index("idle")
"""Code of time in which nothing was recorded."""

Key = tuple[int, int]
"""repeat, rank."""


@dataclass(frozen=True, kw_only=True)
class Lane:
    """One rank in one repeat. `times` [n, 2]: sorted, disjoint; gaps between them are no pieces.

    `code` [n]: place in `breakdown.ORDER`; `event` [n]: row of the events.
    """

    times: Times
    code: NDArray[np.int64]
    event: NDArray[np.int64]


def lanes(events: pd.DataFrame, arrival_ns: Times) -> dict[Key, Lane]:
    """Every rank's pieces in every repeat; waits are split at their arrival, int64 [events]."""
    spans = declared(events, arrival_ns)
    return {
        (int(repeat), int(rank)): _lane(rows)
        for (repeat, rank), rows in spans.groupby(["repeat", "rank"])
    }


def _lane(spans: pd.DataFrame) -> Lane:
    taken, found = intervals.EMPTY, []
    for level, code in enumerate(LEVELS):
        rows = spans[spans["level"] == level]
        times, event = _disjoint(rows)
        piece, kept = _outside(times, taken)
        found.append((kept, np.full(len(piece), code), event[piece]))
        taken = intervals.union(taken, rows[["start_ns", "end_ns"]])
    times, code, event = (np.concatenate(parts) for parts in zip(*found, strict=True))
    order = np.argsort(times[:, 0], kind="stable")
    return Lane(times=times[order], code=code[order], event=event[order])


def _disjoint(rows: pd.DataFrame) -> tuple[Times, NDArray[np.int64]]:
    times = rows[["start_ns", "end_ns"]].to_numpy(np.int64)
    order = np.lexsort((-times[:, 1], times[:, 0]))
    times, event = times[order], rows["event"].to_numpy(np.int64)[order]
    reach = np.maximum.accumulate(times[:, 1])
    times[1:, 0] = np.maximum(times[1:, 0], reach[:-1])
    kept = times[:, 1] > times[:, 0]
    return times[kept], event[kept]


def _outside(times: Times, taken: Times) -> tuple[NDArray[np.int64], Times]:
    """What of disjoint `times` lies outside of a set: rows of `times`, and their parts."""
    if not len(times) or not len(taken):
        return np.arange(len(times)), times
    edges = np.r_[min(times[0, 0], taken[0, 0]), taken.ravel(), max(times[-1, 1], taken[-1, 1])]
    piece, _, kept = intervals.overlaps(times, edges.reshape(-1, 2))
    return piece, kept
