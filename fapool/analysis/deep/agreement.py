"""Live against deep: the same traced steps by their spans and by their kernels.

    live      | span     | span  |          a span reaches from the end of the device's last work
    reached   | k  . k   | . k   |   idle   the trace, counted in the same way
    deep      | k |.| k  |.| k   |   idle   kernels alone: the gaps between them are idle

`live` against `reached` says how far the two ways to measure agree; `reached` less `deep` is what
lies between kernels.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from fapool.analysis.breakdown import PARTS, Breakdown, breakdown
from fapool.analysis.clocks import shifts_of
from fapool.analysis.deep.breakdown import Deep, deep
from fapool.analysis.deep.lost import of_lost_graphs
from fapool.analysis.load import Tables, load
from fapool.errors import StoreError
from fapool.phases import NO_SPANS, TRACED
from fapool.store import Run
from fapool.traces import TraceFolder, read_folder

_STEP = ["rank", "step"]


@dataclass(frozen=True, kw_only=True)
class Depths:
    """`rows`: one row per traced decode step with live spans, rank and part: rank, step, part,
    wall_ns (the live step's), live_ns, reached_ns, deep_ns, and what live and deep differ from
    `reached` by, as shares of the step: live_share, gap_share. `lengths`: one row per rank and
    method of the live spans: traced_ms, measured_ms (medians of decode steps; NaN where none were
    measured alike) and ratio: what profiling did to a step. `lacking`: numbers of the steps that
    are not in `rows`, for of a rank the trace does not have them, or not the spans of their graphs.
    """

    rows: pd.DataFrame
    lengths: pd.DataFrame
    lacking: list[int]

    @property
    def worst(self) -> float:
        """The largest difference between live and trace, as a share of a step; NaN without any."""
        return float(self.rows["live_share"].abs().max())


@dataclass(frozen=True, kw_only=True)
class TracedRun:
    """A run's traces, broken down; `depths` and `live` are None where no live spans were kept."""

    found: Deep
    live: Breakdown | None
    depths: Depths | None


def traced_run(run: Run, folder: TraceFolder | None = None) -> TracedRun | None:
    """All that a run's traces say; None if it has none. `folder`: they, if they were read.

    Raises:
        StoreError, ProfileFileError: a table or all of the traces cannot be read, or hold no steps.
    """
    if not run.traces:
        return None
    tables = traced_tables(run)
    known = tables.steps if tables else load(run).steps
    folder = folder or read_folder(run.path / "trace")
    found = deep(folder.traces, known, shifts_of(run))
    found.notes.extend(folder.notes)
    if tables is None:
        return TracedRun(found=found, live=None, depths=None)
    live = breakdown(tables)
    return TracedRun(found=found, live=live, depths=against(live, found, tables, load(run)))


def traced_tables(run: Run) -> Tables | None:
    """What live spans say of the traced steps; None of a run that kept none."""
    try:
        events, steps = run.table("traced_events"), run.table("traced_steps")
    except StoreError:
        return None
    if steps.empty:
        return None
    whole = load(run)
    return Tables(
        name=whole.name,
        spec=whole.spec,
        events=events,
        steps=steps.sort_values(["repeat", *_STEP], ignore_index=True),
        requests=whole.requests,
        memory=whole.memory,
    )


def against(live: Breakdown, found: Deep, traced: Tables, measured: Tables) -> Depths:
    """Hold the traced steps' live breakdown against the trace's, where that has all ranks."""
    decode = live.steps[live.steps["kind"] == "decode"]
    lacking = _lacking(decode, found)
    decode = decode[~decode["step"].isin(lacking)]
    told = {"live_ns": decode, "reached_ns": found.reached.steps, "deep_ns": found.parted.steps}
    rows = decode[[*_STEP, "wall_ns"]].merge(pd.DataFrame({"part": PARTS}), how="cross")
    for name, steps in told.items():
        long = steps.melt(_STEP, PARTS, "part", name)
        rows = rows.merge(long, on=[*_STEP, "part"])
    rows["live_share"] = (rows["live_ns"] - rows["reached_ns"]) / rows["wall_ns"]
    rows["gap_share"] = (rows["reached_ns"] - rows["deep_ns"]) / rows["wall_ns"]
    lengths = _lengths(traced.steps, measured.steps)
    return Depths(rows=rows, lengths=lengths, lacking=lacking)


def _lacking(live: pd.DataFrame, found: Deep) -> list[int]:
    """Of these steps the numbers of those that the traces do not tell of on all of their ranks."""
    there = pd.MultiIndex.from_frame(found.parted.steps[_STEP])
    gone = live.loc[~pd.MultiIndex.from_frame(live[_STEP]).isin(there), "step"]
    lost = found.kernels.loc[of_lost_graphs(found.kernels), "step"]
    return sorted({*gone, *set(lost).intersection(live["step"])})


def _lengths(traced: pd.DataFrame, measured: pd.DataFrame) -> pd.DataFrame:
    """Medians of the same steps' lengths, traced and measured; by rank and method."""
    traced = traced[(traced["kind"] == "decode") & (traced["repeat"] == TRACED)]
    # A step that sampling left out when it was measured is compared with those around it.
    own = {"traced_ms": traced, "measured_ms": measured[measured["kind"] == "decode"]}
    medians = [_medians(steps).rename(name) for name, steps in own.items()]
    found = pd.concat(medians, axis=1).dropna(subset=["traced_ms"]).reset_index()
    return found.assign(ratio=found["traced_ms"] / found["measured_ms"])


def _medians(steps: pd.DataFrame) -> pd.Series:
    method = steps["method"].where(steps["method"] != NO_SPANS, "no spans")
    walls = (steps["end_ns"] - steps["start_ns"]).div(1e6)
    return walls.groupby([steps["rank"], method]).median()
