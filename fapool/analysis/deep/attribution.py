"""Which span launched each kernel: by correlation ids, and in replays by the order of capture.

kernel -- correlation --> launch on the host -- innermost range around it --> span
                                             -- a replay's range --> graph -- order --> span

A kernel's name decides nothing. What no span launched is kept, with the reason.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fapool.analysis.deep import nodes
from fapool.analysis.deep.nesting import innermost
from fapool.phases import REPLAY, Phase, replayed_sequence
from fapool.traces.graphs import Graph
from fapool.traces.schema import Trace

Ints = NDArray[np.int64]

SPAN_COLUMNS = ["phase", "category", "layer", "micro_batch", "channel", "sequence", "bytes"]
CATEGORY = {phase.value: phase.category.value for phase in Phase}
NO_LAUNCH, NO_SPAN = "its launch is not in the trace", "launched outside of all spans"
NO_GRAPH, OUTSIDE = "of a graph that is not known", "captured outside of all spans"
UNTOLD = "of a replay whose nodes are not told apart"


@dataclass(frozen=True, kw_only=True)
class Attributed:
    """One trace's device activities, and the spans that they belong to.

    `kernels`: columns of the trace's and launch_ns (-1 unknown), order (of launch, and within a
    replay of capture), graph (-1 none), sampled (of a graph with timing events), span (row of
    `spans`, -1 none) and why (it has none, or ""). `spans`: `SPAN_COLUMNS`, start_ns and end_ns on
    the host; those of replayed graphs stand last, with the times of their launch. `notes`: what
    was not understood.
    """

    kernels: pd.DataFrame
    spans: pd.DataFrame
    notes: list[str]

    def __post_init__(self) -> None:
        lost = self.kernels["span"] < 0
        assert (lost == (self.kernels["why"] != "")).all(), "a kernel has a span or a reason"


def attribute(trace: Trace, graphs: dict[int, Graph] | None = None) -> Attributed:
    """Give every device activity of a trace its span, as far as launches and graphs tell."""
    ranges = trace.spans.to_pandas()
    ranges = ranges.astype({"phase": object, "category": object, "channel": object})
    is_replay = (ranges["category"] == REPLAY).to_numpy(bool)
    spans = ranges[~is_replay].reset_index(drop=True)
    around = ranges[is_replay].reset_index(drop=True)
    kernels, launch = _launched(trace)
    kernels["span"] = _inside(spans, launch)
    at = _inside(around, launch)
    kernels["graph"] = np.where(at >= 0, around["graph"].to_numpy()[at] if len(around) else -1, -1)
    kernels["sampled"] = False
    why = np.where(kernels["launch_ns"] < 0, NO_LAUNCH, NO_SPAN).astype(object)
    kernels["why"] = np.where(kernels["span"] >= 0, "", why)
    of_graphs = (at >= 0) | launch["name"].str.contains("GraphLaunch").to_numpy(bool)
    kernels.loc[of_graphs, "why"], kernels.loc[of_graphs, "span"] = NO_GRAPH, -1
    replayed, notes = _replayed(kernels[of_graphs], graphs or {}, trace, len(spans))
    for name in ("order", "span", "why", "sampled"):
        kernels.loc[of_graphs, name] = replayed.kernels[name]
    return Attributed(
        kernels=kernels.astype({"span": np.int64, "order": np.int64, "sampled": bool}),
        spans=pd.concat(
            [spans[[*SPAN_COLUMNS, "start_ns", "end_ns"]], *replayed.spans]
        ).reset_index(drop=True),
        notes=notes,
    )


def _launched(trace: Trace) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Kernels, and beside each of them the call that launched it; tid -1 where that is unknown."""
    kernels = trace.kernels.to_pandas().astype({"name": object, "kind": object})
    calls = trace.launches.select(["name", "tid", "start_ns", "correlation"]).to_pandas()
    calls = calls.astype({"name": object}).drop_duplicates("correlation").set_index("correlation")
    at = calls.index.get_indexer(kernels["correlation"])
    known = at >= 0
    launch = pd.DataFrame(
        {"name": "", "tid": np.int64(-1), "start_ns": np.int64(-1)}, kernels.index
    )
    for name in launch:
        launch.loc[known, name] = calls[name].to_numpy()[at[known]]
    kernels["launch_ns"] = launch["start_ns"]
    kernels["order"] = np.lexsort((kernels["start_ns"], kernels["launch_ns"])).argsort()
    return kernels, launch


def _inside(ranges: pd.DataFrame, launch: pd.DataFrame) -> Ints:
    times = (ranges[name].to_numpy(np.int64) for name in ("start_ns", "end_ns", "tid"))
    asked = (launch[name].to_numpy(np.int64) for name in ("start_ns", "tid"))
    return innermost(*times, *asked)


@dataclass(frozen=True)
class _Replayed:
    kernels: pd.DataFrame
    spans: list[pd.DataFrame]


def _replayed(
    kernels: pd.DataFrame, graphs: dict[int, Graph], trace: Trace, first: int
) -> tuple[_Replayed, list[str]]:
    """Part the kernels of every replay by its graph; spans are numbered from `first` on."""
    kernels, spans, notes = kernels.copy(), [], []
    order, span = kernels["order"].to_numpy().copy(), kernels["span"].to_numpy().copy()
    why, sampled = kernels["why"].to_numpy().copy(), kernels["sampled"].to_numpy().copy()
    numbers = step_numbers(trace, kernels["launch_ns"].to_numpy())
    for rows in kernels.groupby("correlation", sort=False).indices.values():
        graph = graphs.get(int(kernels["graph"].iloc[rows[0]]))
        if graph is None or graph.note:
            notes.append(graph.note if graph else NO_GRAPH)
            continue
        sampled[rows] = graph.sampled
        own = kernels.iloc[rows]
        places, doubt = nodes.place(own, graph.nodes)
        if doubt:
            notes.append(f"graph {graph.number}: {doubt}")
        if places is None:
            why[rows] = f"{UNTOLD}: {doubt}"
            continue
        owner = graph.owner_of[places]
        known = np.array([bool(one.phase) for one in graph.owners])[owner]
        span[rows] = np.where(known, first + owner, -1)
        why[rows] = np.where(known, "", OUTSIDE)
        order[rows] = np.sort(order[rows])[places.argsort().argsort()]
        spans.append(_spans(graph, int(numbers[rows[0]]), int(own["launch_ns"].iloc[0])))
        first += len(graph.owners)
    kernels = kernels.assign(order=order, span=span, why=why, sampled=sampled)
    return _Replayed(kernels, spans), [f"{text} ({notes.count(text)} times)" for text in set(notes)]


def _spans(graph: Graph, step: int, at_ns: int) -> pd.DataFrame:
    rows = [
        (
            *(one.phase, CATEGORY.get(one.phase, ""), one.layer, one.micro_batch, one.channel),
            replayed_sequence(step, one.sequence) if one.sequence >= 0 else -1,
            *(one.bytes, at_ns, at_ns),
        )
        for one in graph.owners
    ]
    return pd.DataFrame(rows, columns=[*SPAN_COLUMNS, "start_ns", "end_ns"])


def step_numbers(trace: Trace, at_ns: Ints) -> Ints:
    """Number of the profiler step in which the host was at these instants; -1 after the last."""
    steps = trace.steps.to_pandas()
    steps = steps[~steps["on_device"]].sort_values("start_ns")
    numbers = np.r_[steps["number"].to_numpy(np.int64), -1]
    return numbers[np.searchsorted(steps["end_ns"].to_numpy(np.int64), at_ns)]
