"""Where the steps of a trace begin and end, as the live level has it.

The host's ranges end at the recorder's borders, and the next step begins there. Where a device was
traced, a border lies where the device gets to it: when all that was launched before is done, but
for streams beside the one on which the steps run. An idle device gets to it when the recorder has
recorded its event; the range ends 15 to 220 us later (2 x H100, 2 x H200).

    host     ... launch | record |           range ends
    idle device                  | border
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fapool.analysis.activities import cut
from fapool.analysis.deep.attribution import Attributed
from fapool.errors import StoreError
from fapool.phases import TRACED
from fapool.traces.schema import Trace

Ints = NDArray[np.int64]

RECORD = "cudaEventRecord"
"""What the calls that record an event begin with."""

UNKNOWN_KIND = "step"
"""Kind of a step that nothing but its trace tells of."""


def on_device(trace: Trace) -> bool:
    """Whether a device was traced, as far as the trace tells."""
    device = _about(trace).get("device")
    return device == "cuda" if device else bool(trace.kernels.num_rows)


def traced_steps(
    trace: Trace, found: Attributed, known: pd.DataFrame | None
) -> tuple[pd.DataFrame, list[str]]:
    """Rows as of `STEPS` (repeat, rank, step, role, kind, start_ns, end_ns, leased, method), and
    what they lack. On the trace's own clock; `whole` says of each whether all of it is there.

    Raises:
        StoreError: the trace holds no profiler step.
    """
    steps = trace.steps.to_pandas()
    steps = steps[~steps["on_device"].astype(bool)].sort_values("start_ns", ignore_index=True)
    if steps.empty:
        raise StoreError(
            f"{trace.path.name} holds no profiler steps (ranges ProfilerStep#n): there is nothing "
            "to break down by step"
        )
    borders = np.r_[steps["start_ns"].to_numpy()[:1], steps["end_ns"].to_numpy()]
    if on_device(trace):
        if "device" in _about(trace):  # or nobody says that ranges end where they are recorded
            borders[1:] = _recorded(steps, trace)
        borders = _reached(borders, found.kernels)
    numbers = steps["number"].to_numpy(np.int64)
    rows = pd.DataFrame({"repeat": TRACED, "rank": trace.rank, "step": numbers})
    rows["start_ns"], rows["end_ns"] = borders[:-1], borders[1:]
    rows["method"] = "kernels" if on_device(trace) else "spans"
    rows["whole"] = cut.whole(trace, steps["end_ns"].to_numpy(np.int64))
    notes = [] if (np.diff(numbers) == 1).all() else ["its steps do not follow one another"]
    if left := int((~rows["whole"]).sum()):
        notes.append(cut.note(left, len(rows)))
    return _told(rows, trace, known), notes


def _recorded(steps: pd.DataFrame, trace: Trace) -> Ints:
    """When the host had recorded each step's end, which is the last that it called in the step."""
    begin, end = (steps[name].to_numpy(np.int64) for name in ("start_ns", "end_ns"))
    calls = trace.launches.to_pandas()
    calls = calls[calls["tid"].isin(steps["tid"])]
    if calls.empty:
        return end
    last = calls.iloc[np.searchsorted(calls["start_ns"].to_numpy(np.int64), end) - 1]
    start, done = (last[name].to_numpy(np.int64) for name in ("start_ns", "end_ns"))
    records = last["name"].astype(str).str.startswith(RECORD).to_numpy(bool)
    return np.where(records & (begin <= start) & (start < end), np.minimum(done, end), end)


def _reached(borders: Ints, kernels: pd.DataFrame) -> Ints:
    """When the device had done what was launched before each border, at the border the earliest."""
    own = kernels[kernels["launch_ns"] >= 0]
    main = own.loc[own["span"] >= 0, "stream"].mode()
    own = own[own["stream"].isin(main) | (own["graph"] >= 0)].sort_values("launch_ns")
    done = np.maximum.accumulate(np.r_[np.iinfo(np.int64).min, own["end_ns"].to_numpy(np.int64)])
    before = np.searchsorted(own["launch_ns"].to_numpy(np.int64), borders)
    return np.maximum.accumulate(np.maximum(borders, done[before]))


def _told(rows: pd.DataFrame, trace: Trace, known: pd.DataFrame | None) -> pd.DataFrame:
    """With what the live level knows of these steps: role, kind, leased."""
    rows["role"] = str(_about(trace).get("role", ""))
    rows["kind"], rows["leased"] = UNKNOWN_KIND, 0
    if known is None:
        return rows
    own = known[known["rank"] == trace.rank].drop_duplicates("step").set_index("step")
    at = own.index.get_indexer(rows["step"])
    for name in ("role", "kind", "leased"):
        rows.loc[at >= 0, name] = own[name].to_numpy()[at[at >= 0]]
    return rows


def _about(trace: Trace) -> dict:
    about = trace.metadata.get("fapool")
    return about if isinstance(about, dict) else {}
