"""Print where the time went in any folder of profiler traces."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fapool.analysis import summary
from fapool.analysis.activities.breakdown import HIDDEN, PARTS, Traced, break_down
from fapool.analysis.clocks import shifts_of, words_of_traces
from fapool.analysis.deep.steps import UNKNOWN_KIND
from fapool.cli.deep import print_spans
from fapool.cli.tables import mean_of, write_json
from fapool.errors import SpecError, StoreError
from fapool.store import Run
from fapool.traces import Reading, TraceFolder

HEADS = {
    "compute_ns": "compute",
    "communication_ns": "communi-\ncation",
    "synchronization_ns": "synchro-\nnization",
    "copies_ns": "copies",
    "idle_ns": "idle",
}
ALL_KINDS = (
    "prefill and decode steps are averaged together: the traces do not tell them apart, the tables "
    "of their run do"
)
MEANING = (
    "communication: from the last participant's arrival on; synchronization: until then; both "
    "where no computation hides them. hidden: transfers under computation. A step of a device "
    "begins with the first kernel that was launched in it"
)


def analyze(
    folder: Path,
    *,
    step: int | None = None,
    out: Path | None = None,
    console: Console | None = None,
    reading: Reading | None = None,
) -> None:
    """Print the breakdown of the traces in `folder`, of all steps or one; write JSON to `out`.

    `reading`: that of the folder, where it has begun already.

    Raises:
        ProfileFileError: there is no such folder, or no trace in it.
        SpecError: there is no such step, or `out` cannot be written.
    """
    console = console or Console()
    found = (reading or Reading(folder, ops=None, processes=None)).result()
    run = run_of(folder)
    parted = _parted(found, run)
    steps = _chosen(_with_kinds(parted.steps, run), step)
    ours = any(trace.spans.num_rows for trace in found.traces)
    for line in _head(found, run):
        console.print(Text(line), soft_wrap=True)
    for (method, kind), rows in steps.groupby(["method", "kind"], sort=False):
        console.print(_breakdown(rows, method, kind, step))
    if ours and step is None and (steps["kind"] == UNKNOWN_KIND).any():
        console.print(Text(ALL_KINDS, "yellow"), soft_wrap=True)
    console.print(Text(MEANING, "dim"), soft_wrap=True)
    for line in _told(parted):
        console.print(Text(line, "dim"), soft_wrap=True)
    for note in [*found.notes, *parted.notes]:
        console.print(Text(note, "yellow"), soft_wrap=True)
    if ours:
        print_spans(_without_notes(found), run, console, step)
    if out is not None:
        write_json(out, _record(found, parted, steps, run))
        console.print(f"written: {out}", soft_wrap=True, markup=False)


def run_of(folder: Path) -> Run | None:
    """The run of ours whose traces lie in `folder`; None for any other folder."""
    for place in (folder, folder.parent):
        try:
            return Run(place.resolve())
        except StoreError:
            continue
    return None


def _parted(found: TraceFolder, run: Run | None) -> Traced:
    """The breakdown, on the clock of the run where there is one that has its ranks' clocks."""
    moved, words = (shifts_of(run), words_of_traces(run)) if run else ({}, None)
    parted = break_down(found.traces, moved)
    return replace(parted, clock=words) if words else parted


def _with_kinds(steps: pd.DataFrame, run: Run | None) -> pd.DataFrame:
    """With `kind`: prefill or decode of a run's steps, as far as its tables have them."""
    steps, known = steps.assign(kind=UNKNOWN_KIND), {}
    for table in ("steps", "traced_steps"):
        try:
            rows = run.table(table) if run else pd.DataFrame()
        except StoreError:  # it ended before, or was not traced
            continue
        for rank, number, kind in rows.reindex(columns=["rank", "step", "kind"]).to_numpy():
            known[rank, number] = kind
    keys = zip(steps["rank"], steps["step"], strict=True)
    return steps.assign(kind=[known.get(key, UNKNOWN_KIND) for key in keys])


def _head(found: TraceFolder, run: Run | None) -> list[str]:
    lines = []
    if run is not None:
        lines.append(f"run {run.name}: {_plan(run)}, {run.status.state}")
    events = sum(trace.num_events for trace in found.traces)
    lines.append(f"{len(found.traces)} traces in {found.path}, {events:,} events")
    worlds = {trace.world for trace in found.traces if trace.world > 0}
    ranks = {trace.rank for trace in found.traces}
    if worlds and (missing := sorted(set(range(max(worlds))) - ranks)):
        lines.append(f"no trace of rank {', '.join(map(str, missing))}")
    return lines


def _plan(run: Run) -> str:
    try:
        return str(run.spec.plan)
    except (StoreError, SpecError, OSError):  # of another version, or cut short
        return "its spec cannot be read"


def _chosen(steps: pd.DataFrame, step: int | None) -> pd.DataFrame:
    if step is None:
        return steps
    rows = steps[steps["step"] == step]
    if rows.empty:
        known = sorted({int(number) for number in steps["step"] if number >= 0})
        listed = f"the traces have {known[0]} to {known[-1]}" if known else "the traces have none"
        raise SpecError("step", step, listed)
    return rows


def _breakdown(steps: pd.DataFrame, method: str, kind: str, step: int | None) -> Table:
    """One row per rank: the mean of its steps, in ms; the parts as printed sum to the wall."""
    of = f"step {step}" if step is not None else _of_steps(steps)
    each = kind if kind == UNKNOWN_KIND else f"{kind} step"
    table = Table(
        title=f"ms per {each}, {of}, from {method}", box=SIMPLE_HEAD, pad_edge=False,
        collapse_padding=True, title_justify="left",
    )  # fmt: skip
    table.add_column("rank", no_wrap=True)
    for head in (*HEADS.values(), "= wall", "hidden"):
        table.add_column(head, justify="right")
    means = steps.groupby("rank")[[*PARTS, "wall_ns", *HIDDEN]].mean() / 1e6
    for rank, row in means.iterrows():
        shown, wall = summary.rounded([row[part] for part in PARTS], row["wall_ns"])
        cells = [f"{value:.3f}" for value in (*shown, wall, row["hidden_ns"])]
        table.add_row(str(rank), *cells)
    return table


def _without_notes(found: TraceFolder) -> TraceFolder:
    """The same traces, whose own notes stand above already."""
    return replace(found, notes=[], traces=[replace(trace, notes=[]) for trace in found.traces])


def _of_steps(steps: pd.DataFrame) -> str:
    return "whole" if (steps["step"] < 0).all() else mean_of(steps)


def _told(parted: Traced) -> list[str]:
    met = parted.meetings
    if not met.communication:
        return []
    matched = f"{met.matched:,} of {met.communication:,} kernels of communication were matched"
    return [f"{matched} across ranks, {parted.clock}"]


def _record(found: TraceFolder, parted: Traced, steps: pd.DataFrame, run: Run | None) -> Any:
    met = parted.meetings
    return {
        "folder": str(found.path),
        "run": run and run.name,
        "traces": [
            {"rank": trace.rank, "file": trace.path.name, "events": trace.num_events}
            for trace in found.traces
        ],
        "steps": steps.to_dict("records"),
        "communication_kernels": {
            name: getattr(met, name) for name in ("communication", "matched", "early", "nameless")
        },
        "clock": parted.clock,
        "notes": [*found.notes, *parted.notes],
    }
