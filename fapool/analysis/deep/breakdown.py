"""The breakdown of traced steps from kernels: what the devices did, each kernel in its span.

On a stream a kernel counts from the end of the one before it: one that was launched ahead (see
`runtime/kernels/chaining.py`) waits there until then. Where no device was traced, the spans are
what ran. Host activities are the host's spans on either.

    stream       | a      | b         |   c |
    traced       [========]           [=====]
                      [===============]              b came up early, and waited for a
    counted      [========[===========[=====]

Times are on rank 0's clock, as far as each rank knew of it when the trace was taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
import pandas as pd

from fapool.analysis import exchanges
from fapool.analysis.activities.rendezvous import Meetings
from fapool.analysis.breakdown import Breakdown, part
from fapool.analysis.deep import names
from fapool.analysis.deep.attribution import attribute
from fapool.analysis.deep.events import Rows, rank_events
from fapool.analysis.deep.lost import of_lost_graphs, said_of
from fapool.analysis.deep.met import with_meetings
from fapool.analysis.deep.steps import traced_steps
from fapool.errors import StoreError
from fapool.traces.graphs import Graph, read_graphs
from fapool.traces.schema import Trace


@dataclass(frozen=True, kw_only=True)
class Deep:
    """What the traces of one run say of their whole steps: see `activities.cut`.

    `parted`: by kernels; `reached`: the same time as the live level counts it, where a span reaches
    from the end of the device's last work to the end of its own, so that gaps between kernels are
    inside it. `kernels`: every device activity with rank, step (-1 outside), phase, category, layer
    and why it has no span. `unattributed`: those without, by rank, name and reason: count and ns.
    `disagreements`: see `names.disagreements`. `replays`: by rank and step, how many replays and
    how many of them of graphs with events; those of graphs that are not known are not there.
    `met`: by what the kernels say of their group, where some that communicate have no span.
    """

    parted: Breakdown
    reached: Breakdown
    kernels: pd.DataFrame
    unattributed: pd.DataFrame
    disagreements: pd.DataFrame
    replays: pd.DataFrame
    met: Meetings | None
    notes: list[str]

    @property
    def words(self) -> str:
        """What of the exchanges could not be matched by their spans; empty where all was."""
        if self.met is None or not self.met.matched or not self.parted.words:
            return self.parted.words
        return (
            f"{self.parted.unmatched:,} of {self.parted.exchanges:,} exchanges lack a record by "
            f"spans: their waits are split where kernels say their group, as {self.met.matched:,} "
            f"of {self.met.communication:,} that communicate did"
        )

    @property
    def lost(self) -> list[str]:
        """What is said first where kernels of graphs have no spans, by rank."""
        return said_of(self.kernels)

    def of_step(self, step: int) -> Deep:
        """The same, of one step; its partitions say of whole traces what was not matched."""
        kernels = self.kernels[self.kernels["step"] == step]
        return replace(
            self,
            parted=_step_of(self.parted, step),
            reached=_step_of(self.reached, step),
            kernels=kernels,
            unattributed=_unattributed(kernels),
            disagreements=names.disagreements(kernels[kernels["why"] == ""]),
            replays=self.replays[self.replays["step"] == step],
        )


def deep(
    traces: Sequence[Trace],
    known: pd.DataFrame | None = None,
    shift_ns: Mapping[int, int] = MappingProxyType({}),
) -> Deep:
    """Break down the traced steps of all ranks; `known`: their rows of `traced_steps`, if any.

    Graphs are looked for beside each trace. `shift_ns`: by rank, what to add to its trace's times
    to get rank 0's; 0 where it is not known.

    Raises:
        StoreError: no trace holds a profiler step, or a whole one.
    """
    used, all_rows, steps, notes = _each_rank(traces, known, shift_ns)
    notes += _missing(traces)
    if not steps:
        raise StoreError("; ".join(notes) or "there is no trace")
    borders = pd.concat(steps, ignore_index=True)
    whole = borders.pop("whole")
    if not whole.any():
        raise StoreError("; ".join(notes))
    borders = borders[whole].reset_index(drop=True)
    all_rows, met = with_meetings(used, all_rows, shift_ns)
    kernels = pd.concat([rows.kernels for rows in all_rows], ignore_index=True)
    return Deep(
        parted=_parted([rows.counted for rows in all_rows], borders),
        reached=_parted([rows.reached for rows in all_rows], borders),
        kernels=kernels,
        unattributed=_unattributed(kernels),
        disagreements=names.disagreements(kernels[kernels["why"] == ""]),
        replays=_replays(kernels),
        met=met,
        notes=notes,
    )


def _each_rank(
    traces: Sequence[Trace], known: pd.DataFrame | None, shift_ns: Mapping[int, int]
) -> tuple[list[Trace], list[Rows], list[pd.DataFrame], list[str]]:
    """Traces, rows and steps of every rank that has steps, and notes of all."""
    used, all_rows, steps, notes = [], [], [], []
    for trace in traces:
        graphs, said = read_graphs(trace.path.parent, trace.rank)
        notes += [f"rank {trace.rank}: {note}" for note in (*trace.notes, *said)]
        try:
            rows, own_steps, more = one_rank(trace, graphs, known, shift_ns.get(trace.rank, 0))
        except StoreError as error:
            notes.append(f"rank {trace.rank} is left out: {error}")
            continue
        notes += [f"rank {trace.rank}: {note}" for note in more]
        used.append(trace)
        all_rows.append(rows)
        steps.append(own_steps)
    return used, all_rows, steps, notes


def one_rank(
    trace: Trace, graphs: dict[int, Graph], known: pd.DataFrame | None, shift: int
) -> tuple[Rows, pd.DataFrame, list[str]]:
    """One trace's rows, its steps, and what was not understood."""
    found = attribute(trace, graphs)
    steps, said = traced_steps(trace, found, known)
    return rank_events(trace, found, steps, shift), steps, [*found.notes, *said]


def _parted(rows: list[pd.DataFrame], steps: pd.DataFrame) -> Breakdown:
    """The partition; an exchange is met by the whole of its span on each rank, not by a kernel.

    Where one rank's span is all that is known of it, or there is none, `met_ns` tells: see `met`.
    """
    events = pd.concat(rows, ignore_index=True)
    keys = ["rank", "instance", "channel"]
    hull = events.groupby(keys, sort=False, as_index=False).agg(
        {
            **dict.fromkeys(("repeat", "category", "sequence"), "first"),
            **{"start_ns": "min", "end_ns": "max"},
        }
    )
    met = exchanges.match(hull)
    # integers all the way: a merge that finds no partner would make floats of nanoseconds
    at = pd.MultiIndex.from_frame(hull[keys]).get_indexer(pd.MultiIndex.from_frame(events[keys]))
    arrival = met.arrival_ns[at]
    waits = arrival != hull["start_ns"].to_numpy()[at]
    own = events["start_ns"].to_numpy()
    if "met_ns" in events:
        ranks = hull["rank"].groupby(met.exchange).transform("nunique").to_numpy()
        told = (met.exchange >= 0) & (ranks > 1)
        own = np.where(told[at], own, events["met_ns"].to_numpy())
    arrival = arrival.copy()
    arrival[~waits] = own[~waits]
    return part(events, steps, met, arrival)


def _step_of(parted: Breakdown, step: int) -> Breakdown:
    steps, shares = (rows[rows["step"] == step] for rows in (parted.steps, parted.shares))
    return replace(parted, steps=steps, shares=shares)


def _missing(traces: Sequence[Trace]) -> list[str]:
    world = max((trace.world for trace in traces), default=0)
    lost = sorted(set(range(world)) - {trace.rank for trace in traces})
    who = ", ".join(map(str, lost))
    return [f"no trace of rank {who}: waits for it alone count as communication"] if lost else []


def _unattributed(kernels: pd.DataFrame) -> pd.DataFrame:
    lost = kernels[kernels["why"] != ""]
    lost = lost.assign(count=1, ns=lost["end_ns"] - lost["start_ns"])
    found = lost.groupby(["rank", "why", "name"], as_index=False)[["count", "ns"]].sum()
    return found.sort_values("ns", ascending=False, ignore_index=True)


def _replays(kernels: pd.DataFrame) -> pd.DataFrame:
    known = (kernels["graph"] >= 0) & ~of_lost_graphs(kernels)
    own = kernels[known].drop_duplicates(["rank", "correlation"])
    found = own.assign(replays=1).groupby(["rank", "step"], as_index=False)
    return found.agg({"replays": "sum", "sampled": "sum"})
