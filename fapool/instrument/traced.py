"""Kernels and launches of a run's profiler window, as rows of the merged trace.

The window comes after the measured steps, so that its kernels stand behind them in time, beneath
the spans that the profiler saw. Times are moved to the tables' clock where it is known by how much.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from fapool.errors import FapoolError
from fapool.instrument.threads import ordered, place_on_threads
from fapool.store import RunFolder
from fapool.traces import Trace, read, shifts

SPANS_THREAD, LAUNCHES_THREAD, FIRST_STREAM = 100, 200, 1000
_COLUMNS = ["name", "cat", "pid", "tid", "start_ns", "end_ns", "correlation", "bytes"]


@dataclass(kw_only=True)
class Traced:
    """What the traces of all ranks hold; `slices` have pid, tid, name, cat and times."""

    slices: pd.DataFrame
    flows: pd.DataFrame  # from a launch to its kernel
    threads: dict[tuple[int, int], str]  # (pid, tid) -> what it is called
    notes: list[str] = field(default_factory=list)


def traced(folder: RunFolder) -> Traced:
    """Read every rank's trace; one that cannot be read is left out, and said."""
    parts, arrows, threads, notes = [], [], {}, []
    known = shifts(folder.environment)
    for path in sorted(folder.path.glob("trace/rank*.pt.trace.json.gz")):
        try:
            trace = read(path)
        except FapoolError as error:
            notes.append(f"{path.name} is left out: {error}")
            continue
        shift = known.get(trace.rank, 0)
        rows = pd.concat(list(_of_trace(trace, shift, threads)), ignore_index=True)
        arrows.append(_launched(rows))
        parts.append(rows)
        notes += [f"{path.name}: {note}" for note in trace.notes]
    nothing = pd.DataFrame(columns=_COLUMNS).astype({"start_ns": "int64", "end_ns": "int64"})
    slices = pd.concat(parts, ignore_index=True) if parts else nothing
    return Traced(
        slices=slices,
        flows=pd.concat(arrows, ignore_index=True) if arrows else _launched(nothing),
        threads=threads,
        notes=notes,
    )


def _of_trace(trace: Trace, shift: int, threads: dict[tuple[int, int], str]):
    spans = trace.spans.to_pandas().rename(columns={"phase": "name", "category": "cat"})
    yield _placed(trace.rank, spans, SPANS_THREAD, "traced spans", shift, threads)
    launches = trace.launches.to_pandas().assign(cat="launch")
    yield _placed(trace.rank, launches, LAUNCHES_THREAD, "launches", shift, threads)
    kernels = trace.kernels.to_pandas().rename(columns={"kind": "cat"})
    streams = sorted(set(zip(kernels["device"], kernels["stream"], strict=True)))
    for index, (device, stream) in enumerate(streams):
        own = kernels[(kernels["device"] == device) & (kernels["stream"] == stream)]
        first = FIRST_STREAM + 10 * index
        title = f"GPU {device} · stream {stream}"
        yield _placed(trace.rank, own, first, title, shift, threads)


def _placed(
    rank: int,
    rows: pd.DataFrame,
    first: int,
    title: str,
    shift: int,
    threads: dict[tuple[int, int], str],
) -> pd.DataFrame:
    """Rows on as many threads as it takes, from number `first` on."""
    starts, ends = (rows[name].to_numpy(np.int64) + shift for name in ("start_ns", "end_ns"))
    order = ordered(starts, ends)
    starts, ends = starts[order], ends[order]
    lanes = place_on_threads(starts.tolist(), ends.tolist())
    for lane in range(int(lanes.max(initial=-1)) + 1):
        threads[rank, first + lane] = title + ", also" * (lane > 0)
    found = rows.iloc[order].reset_index(drop=True)
    found = found.assign(pid=rank, tid=first + lanes, start_ns=starts, end_ns=ends)
    return found.reindex(columns=_COLUMNS, fill_value=-1).astype({"name": object, "cat": object})


def _launched(rows: pd.DataFrame) -> pd.DataFrame:
    """Arrows from each launch to the kernel of its correlation, if both are there."""
    known = rows[rows["correlation"] > 0] if len(rows) else rows
    at = ["correlation", "pid", "tid", "start_ns", "end_ns", "name"]
    launches = known.loc[known["cat"] == "launch", at]
    kernels = known.loc[known["cat"].isin(["kernel", "memcpy", "memset"]), at]
    both = launches.drop_duplicates("correlation").merge(
        kernels.drop_duplicates("correlation"), on="correlation", suffixes=("_from", "_to")
    )
    return pd.DataFrame(
        {
            "name": "launch",
            "from_pid": both["pid_from"],
            "from_tid": both["tid_from"],
            "from_ns": both["start_ns_from"],
            "to_pid": both["pid_to"],
            "to_tid": both["tid_to"],
            "to_ns": both["start_ns_to"],
        }
    )
