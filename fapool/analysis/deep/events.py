"""Events made of kernels, as the partition takes them: a kernel, its span's labels, its time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fapool.analysis.activities.kernels import COMMUNICATION, sort_out
from fapool.analysis.deep.attribution import SPAN_COLUMNS, Attributed
from fapool.analysis.deep.posts import adopted
from fapool.analysis.deep.steps import on_device
from fapool.analysis.fused import FUSED
from fapool.phases import TRACED, Category
from fapool.traces.schema import Trace

Ints = NDArray[np.int64]

NO_SPAN = "no span"
"""Phase of a kernel that no span launched; it counts as a trace without spans would count it, or
as communication where it is a kernel of ours that exchanges."""

HOST = (Category.MANAGEMENT, Category.SYNCHRONIZATION)
COLUMNS = ["repeat", "rank", "instance", "phase", "category", "layer", "channel", "sequence"]
COLUMNS += ["start_ns", "end_ns", "kernel"]


@dataclass(frozen=True)
class Rows:
    """One rank's events, two ways (see `Deep`), and its kernels; times on rank 0's clock.

    Events have `instance`, the span that they are of: one number for each time that it ran; and
    `kernel`, the row of the trace's kernels, -1 of the host's.
    """

    counted: pd.DataFrame
    reached: pd.DataFrame
    kernels: pd.DataFrame


def rank_events(trace: Trace, found: Attributed, steps: pd.DataFrame, shift: int) -> Rows:
    """One rank's rows; moves `steps` by `shift` ns onto rank 0's clock as well."""
    spans = adopted(found.spans, found.kernels) if on_device(trace) else found.spans
    kernels = _shifted(_labelled(trace, found.kernels, spans), shift)
    spans = _shifted(spans, shift)
    kernels.insert(0, "rank", trace.rank)
    for name in ("start_ns", "end_ns"):
        steps[name] += shift
    kernels["step"] = _step_of(kernels["start_ns"].to_numpy(np.int64), steps)
    host = spans[spans["category"].isin(HOST)] if on_device(trace) else spans
    host = host.assign(instance=host.index)
    counted, reached = serial(kernels), stretched(kernels, spans)
    return Rows(
        counted=_events(trace.rank, [host, counted]),
        reached=_events(trace.rank, [host, reached]),
        kernels=kernels,
    )


def serial(kernels: pd.DataFrame) -> pd.DataFrame:
    """Kernels of one stream one after the other: each from the end of those before it."""
    rows = kernels.sort_values("start_ns", kind="stable")
    rows = rows.assign(start_ns=_after_others(rows))
    return rows.assign(end_ns=np.maximum(rows["end_ns"], rows["start_ns"]))


def _after_others(rows: pd.DataFrame) -> Ints:
    starts = rows["start_ns"].to_numpy(np.int64).copy()
    ends = rows["end_ns"].to_numpy(np.int64)
    for own in rows.groupby(["device", "stream"]).indices.values():
        reach = np.maximum.accumulate(ends[own])
        starts[own[1:]] = np.maximum(starts[own[1:]], reach[:-1])
    return starts


def stretched(kernels: pd.DataFrame, spans: pd.DataFrame) -> pd.DataFrame:
    """Kernels from the end of all that was launched before: gaps count to what comes after them.

    The first kernel of a span that the host launches begins no earlier than the host's span, the
    first of a replay where it began. What a graph holds between two spans counts to the second;
    other kernels without a span are left out, for the live level does not see them. Where the
    launch is not known, nobody knows what comes after it.
    """
    rows = serial(kernels).sort_values("order", kind="stable")
    rows = rows[rows["launch_ns"] >= 0]
    start, end = (rows[name].to_numpy(np.int64) for name in ("start_ns", "end_ns"))
    reach = np.r_[np.iinfo(np.int64).min, np.maximum.accumulate(end)[:-1]][: len(end)]
    of_graph, span = rows["graph"].to_numpy() >= 0, rows["span"].to_numpy()
    opened = spans["start_ns"].to_numpy(np.int64)[span] if len(spans) else start
    limit = np.where(of_graph | (span < 0), start, np.maximum(reach, opened))
    again = _as_before(rows["correlation"].to_numpy()) & of_graph
    again |= _as_before(span) & (span >= 0)
    limit[again] = reach[again]
    rows = _to_next(rows.assign(start_ns=np.minimum(start, limit)))
    return rows[rows["span"] >= 0]


def _to_next(rows: pd.DataFrame) -> pd.DataFrame:
    """Nodes between two spans of a replay take the labels of the second."""
    replay = rows["correlation"].to_numpy()
    of_graph, has_span = (rows["graph"] >= 0).to_numpy(), (rows["span"] >= 0).to_numpy()
    place, none = np.arange(len(rows)), len(rows)
    before = np.maximum.accumulate(np.where(of_graph & has_span, place, -1))
    after = np.minimum.accumulate(np.where(of_graph & has_span, place, none)[::-1])[::-1]
    found = of_graph & ~has_span & (before >= 0) & (after < none)
    found[found] &= (replay[before[found]] == replay[found]) & (
        replay[after[found]] == replay[found]
    )
    for name in ("phase", "category", "layer", "channel", "sequence", "span"):
        values = rows[name].to_numpy().copy()
        values[found] = values[after[found]]
        rows[name] = values
    return rows


def _as_before(values: Ints) -> NDArray[np.bool_]:
    """Where a value is that of the row before."""
    return np.r_[False, values[1:] == values[:-1]][: len(values)]


def _labelled(trace: Trace, kernels: pd.DataFrame, spans: pd.DataFrame) -> pd.DataFrame:
    """Kernels with the labels of their spans, or stand-ins."""
    kernels = kernels.copy()
    span, none = kernels["span"].to_numpy(), (kernels["span"] < 0).to_numpy()
    for name in SPAN_COLUMNS:
        column = spans[name].to_numpy()
        label = "own_bytes" if name == "bytes" else name
        blank = {"phase": NO_SPAN, "channel": "", "category": ""}.get(name, -1)
        kernels[label] = np.full(len(kernels), blank, object if blank != -1 else np.int64)
        kernels.loc[~none, label] = column[span[~none]]
    talks = (sort_out(trace).use == COMMUNICATION) | kernels["name"].isin(FUSED).to_numpy()
    stand_in = np.where(talks, Category.COMMUNICATION.value, Category.COMPUTE.value)
    kernels.loc[none, "category"] = stand_in[none]
    return kernels


def _events(rank: int, parts: list[pd.DataFrame]) -> pd.DataFrame:
    """Rows of all parts, one for each channel that they serve; instance -1 - n without a span."""
    host, kernels = parts
    alone = -1 - np.arange(len(kernels))
    instance = np.where(kernels["span"] >= 0, kernels["span"], alone)
    parts = [host.assign(kernel=-1), kernels.assign(instance=instance, kernel=kernels.index)]
    events = pd.concat([p.assign(repeat=TRACED, rank=rank)[COLUMNS] for p in parts])
    commas = {channel: "," in channel for channel in events["channel"].unique()}
    several = events["channel"].map(commas).to_numpy(bool)
    apart = events[several].assign(channel=events.loc[several, "channel"].str.split(","))
    return pd.concat([events[~several], apart.explode("channel")], ignore_index=True)


def _step_of(at_ns: Ints, steps: pd.DataFrame) -> Ints:
    """Number of the step that an instant lies in; -1 outside of all."""
    ends, starts = steps["end_ns"].to_numpy(np.int64), steps["start_ns"].to_numpy(np.int64)
    row = np.searchsorted(ends, at_ns, side="right")
    inside = (row < len(ends)) & (at_ns >= starts[np.minimum(row, len(ends) - 1)])
    return np.where(inside, steps["step"].to_numpy()[np.minimum(row, len(ends) - 1)], -1)


def _shifted(rows: pd.DataFrame, shift_ns: int) -> pd.DataFrame:
    return rows.assign(start_ns=rows["start_ns"] + shift_ns, end_ns=rows["end_ns"] + shift_ns)
