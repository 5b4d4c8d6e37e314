"""HTA's answers beside ours, over the kernels that HTA keeps: parts of the span, and overlap."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np

from fapool.analysis import intervals
from fapool.analysis.activities.breakdown import HIDDEN, break_down
from fapool.analysis.activities.kernels import COMMUNICATION, COMPUTE, COPY, column, sort_out
from fapool.analysis.activities.steps import host_steps
from fapool.traces import Trace, read_folder

THEIR_USE = {"COMMUNICATION": COMMUNICATION, "COMPUTATION": COMPUTE, "MEMORY": COPY}
USES = {COMMUNICATION: "communication", COMPUTE: "compute", COPY: "copy"}


def theirs(folder: Path) -> dict[str, Any]:
    """HTA's parts in us and overlap in % per rank, of all steps."""
    from hta.trace_analysis import TraceAnalysis  # slow, and wanted here alone

    analysis = TraceAnalysis(trace_dir=str(folder.resolve()), include_last_profiler_step=True)
    parts = analysis.get_temporal_breakdown(visualize=False).set_index("rank")
    overlap = analysis.get_comm_comp_overlap(visualize=False).set_index("rank")
    names = {"idle": "idle_time(us)", "compute": "compute_time(us)"}
    names |= {"non_compute": "non_compute_time(us)", "span": "kernel_time(us)"}
    found = {}
    for rank in parts.index:
        row = {name: float(parts.loc[rank, head]) for name, head in names.items()}
        found[str(rank)] = row | {"overlap": float(overlap.loc[rank, "comp_comm_overlap_pctg"])}
    return found


def agreement(folder: Path, their_ranks: dict[str, Any]) -> dict[str, Any]:
    """Largest difference in % of the span over all ranks and parts, and what explains them.

    Parts: compute, what is neither compute nor idle, idle, the span itself, and communication under
    computation. A kernel that either side takes for something else is a difference by name; one of
    more than a microsecond beside none of these is said to be unexplained.
    """
    worst, differences = 0.0, []
    ranks = {}
    for trace in read_folder(folder).traces:
        kept = as_hta_keeps(trace)
        own, their = parts(kept), their_ranks[str(trace.rank)]
        apart = {
            name: abs(own[name] - their[name])
            for name in ("compute", "non_compute", "idle", "span")
        }
        if not isnan(their["overlap"]):  # else it knows no communication, and `names` tell
            # HTA gives the ratio in hundredths of a percent
            apart["overlap"] = abs(own["overlap"] - their["overlap"]) / 100 * own["communication"]
        names = otherwise_named(kept)
        differences += [f"rank {trace.rank}: {line}" for line in names]
        differences += [
            f"rank {trace.rank}: {name} is {value:.3f} us apart, unexplained"
            for name, value in apart.items()
            if value > (1.0 if name != "overlap" else 1e-4 * own["communication"]) and not names
        ]
        worst = max(worst, *(100 * value / own["span"] for value in apart.values()))
        ranks[str(trace.rank)] = {"ours": own, "hta": their}
    return {"apart_percent": round(worst, 6), "differences": differences, "ranks": ranks}


def as_hta_keeps(trace: Trace) -> Trace:
    """The kernels that were launched before the end of the last step, in one whole."""
    host = host_steps(trace)
    launches = trace.launches
    if len(host.number) > 1:
        launches = launches.filter(column(launches, "start_ns") <= host.end_ns[-1])
    correlations = column(launches, "correlation")
    kept = np.isin(column(trace.kernels, "correlation"), correlations)
    steps = trace.steps.slice(0, 0)
    return replace(trace, kernels=trace.kernels.filter(kept), steps=steps)


def parts(trace: Trace) -> dict[str, float]:
    """Our parts in us, and overlap in % of communication."""
    (row,) = break_down([trace]).steps.to_dict("records")
    kernels = sort_out(trace)
    communication = intervals.total(intervals.union(kernels.spans(COMMUNICATION)))
    hidden = sum(row[name] for name in HIDDEN)
    return {
        "idle": row["idle_ns"] / 1e3,
        "compute": row["compute_ns"] / 1e3,
        "non_compute": (row["wall_ns"] - row["compute_ns"] - row["idle_ns"]) / 1e3,
        "span": row["wall_ns"] / 1e3,
        "communication": communication / 1e3,
        "overlap": 100 * hidden / communication if communication else 0.0,
    }


def otherwise_named(trace: Trace) -> list[str]:
    """Kernels that HTA's patterns of names take for something else than we do."""
    from hta.utils.utils import get_kernel_type

    kernels = sort_out(trace)
    counts: Counter[tuple[str, str, str]] = Counter()
    their_use: dict[str, str] = {}
    for name, use in zip(trace.kernels["name"].to_pylist(), kernels.use.tolist(), strict=True):
        kind = their_use.get(name) or their_use.setdefault(name, get_kernel_type(name))
        if THEIR_USE.get(kind) != use:
            counts[name, USES[use], kind.lower()] += 1
    return [
        f"{count} x {name}: {own} here, {kind} there"
        for (name, own, kind), count in sorted(counts.items())
    ]
