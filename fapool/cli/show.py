"""Print runs: what there is, one in full, several side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fapool.analysis import summary
from fapool.analysis.breakdown import PARTS
from fapool.analysis.comparison.table import side_by_side
from fapool.analysis.measured import on_gpus
from fapool.analysis.metrics import DEFINITIONS, UNRATED, definitions
from fapool.analysis.sampled import WITHOUT
from fapool.analysis.steps.causes import causes
from fapool.analysis.study import Study, check_worth, studies, study
from fapool.cli.changed import print_changes, print_doubts, print_other_work
from fapool.cli.deep import print_traced
from fapool.cli.described import print_described
from fapool.cli.phases import print_layers, print_phases, write_partition
from fapool.cli.tables import add_parts, titled
from fapool.errors import FapoolError, StoreError
from fapool.figures.printed import number, ratio, summed
from fapool.figures.report import write_report
from fapool.phases import Role
from fapool.store import PARTIAL, Run, Store

STATE_STYLES = {
    "finished": "green",
    "stopped": "yellow",
    "failed": "red",
    "interrupted": "red",
    "unreadable": "red",
}

HEADLINE = (
    "gpus",
    "ttft_p50",
    "tpot_p50",
    "tpot_p90",
    "tps",
    "tps_per_gpu",
    "tps_per_charged_gpu",
    "utilisation_base",
    "utilisation_pool",
)
"""The metrics that answer the question; the others explain it."""

NAMES_WIDTH, RUN_WIDTH = 36, 9
"""Columns of a terminal: of metric and unit, and of a run, so that no figure is cut."""

OTHERS_WIDTH = 36
"""Columns of a terminal beside a run's name: a plan without its suffix, a state, a check."""

OWN_BORDERS = "step borders are each rank's own: a pool step includes its wait for the base"


def runs(store: Store, console: Console | None = None) -> None:
    """List every run with its plan, state and check."""
    console = console or Console()
    found = store.runs()
    if not found:
        console.print(f"no runs under {store.root}", soft_wrap=True, markup=False)
        return
    names = [run.name.removesuffix(PARTIAL) for run in found]  # by which they open, too
    room = console.width - OTHERS_WIDTH
    table = titled(str(store.root))
    # a name that is cut cannot be copied; where there is room, it is not broken either
    table.add_column("run", overflow="fold", no_wrap=max(map(len, names)) <= room)
    for name in ("plan", "state", "check"):
        table.add_column(name)
    for run, name in zip(found, names, strict=True):
        state = run.status.state
        table.add_row(name, _plan(run), Text(state, STATE_STYLES.get(state, "")), _verdict(run))
    console.print(table)


def show(
    run: Run,
    console: Console | None = None,
    *,
    only: Sequence[str] = tuple(DEFINITIONS),
    layers: bool = False,
    out: Path | None = None,
) -> None:
    """Print one run: state and check, then breakdown, and metrics if it may claim any.

    A run that failed shows why, with its last lines, and no numbers. `only` names the metrics.
    `layers`: the breakdown by layer too; `out`: all of it, per step, phase and layer, as JSON.

    Raises:
        StoreError: a table is missing or broken.
        SpecError: the run has no spans to write, or `out` cannot be written.
    """
    console = console or Console()
    _print_state(run, console)
    if run.status.state not in ("finished", "stopped"):
        return
    found = study(run)
    _print_breakdowns(found, console, layers)
    if out is not None:
        write_partition(found, out)
        console.print(f"written: {out}", soft_wrap=True, markup=False)
    print_traced(run, console)
    try:
        check_worth(run)
    except StoreError as error:
        console.print(Text(f"no metrics: {error}", "red"), soft_wrap=True)
    else:
        print_described(found, console)
        console.print(_metrics([found], only))


def compare(
    runs: Sequence[Run],
    *,
    report: Path | str | None = None,
    console: Console | None = None,
    only: Sequence[str] = tuple(DEFINITIONS),
    changes: bool = True,
) -> pd.DataFrame:
    """Print runs side by side with ratios to the first; write `report` (HTML) where it is named.

    `only` names the metrics that are printed; all of them are returned. What is wider than the
    terminal comes in several tables, each of which begins with the first run. `changes`: print
    also, for each other run, what changed from the first, with intervals and phase by phase.

    Raises:
        StoreError: there is no run, one comes twice, did not finish, or was not correct; or the
            report cannot be written.
    """
    console = console or Console()
    found = studies(*runs)
    print_other_work(found, console)
    table = side_by_side(found)
    for part in _parts(found, console.width):
        console.print(_metrics(part, only))
    if changes:
        for other in found[1:]:
            print_changes(found[0], other, console, only=only)
        print_doubts(found, console)
    if report is not None:
        console.print(f"report: {write_report(runs, report)}", soft_wrap=True, markup=False)
    return table


def _print_state(run: Run, console: Console) -> None:
    status = run.status
    style = STATE_STYLES.get(status.state, "")
    console.print(Text.assemble((run.name, "bold"), " is ", (status.state, style)))
    if status.reason:
        who = f"rank {status.rank}: " if status.rank is not None and status.rank >= 0 else ""
        console.print(Text(f"{who}{status.reason}"), soft_wrap=True)
    if status.log_tail:
        console.print(Text(status.log_tail, "dim"), soft_wrap=True)
    console.print(Text(f"check against one device: {_check(run)}"))


def _print_breakdowns(found: Study, console: Console, layers: bool) -> None:
    if not found.has_spans:
        console.print(Text(WITHOUT, "yellow"), soft_wrap=True)
        return
    if found.sampling:
        said = f"{found.sampling.words}; the breakdown: means of the sampled"
        console.print(Text(said, "dim"), soft_wrap=True)
    for kind in found.parted.steps["kind"].unique():
        console.print(_breakdown(summary.by_rank(found.parted, kind), kind))
        print_phases(found.parted, kind, console)
    if layers:
        print_layers(found.parted, console)
    if (found.parted.steps["role"] == Role.POOL).any():
        console.print(Text(OWN_BORDERS, "dim"))
    for said in causes(found).words():
        console.print(Text(said), soft_wrap=True)
    if found.parted.words:
        console.print(Text(found.parted.words, "yellow"), soft_wrap=True)


def _parts(found: Sequence[Study], width: int) -> list[list[Study]]:
    """Runs, the first and as many others at a time as stand beside it in `width` columns."""
    first, *others = found
    room = max(1, (width - NAMES_WIDTH) // RUN_WIDTH - 1)
    starts = range(0, max(1, len(others)), room)
    return [[first, *others[start : start + room]] for start in starts]


def _breakdown(by_rank: pd.DataFrame, kind: str) -> Table:
    table = titled(f"mean ms per {kind} step, of {by_rank['steps'].max()} steps")
    table.add_column("rank", no_wrap=True)
    add_parts(table, PARTS)
    table.add_column("hidden", justify="right")
    for row in by_rank.to_dict("records"):
        parts = [row[part.replace("_ns", "_ms")] for part in PARTS]
        cells = summed(parts, row["wall_ms"])
        table.add_row(f"{row['rank']} ({row['role']})", *cells, f"{row['hidden_ms']:.3f}")
    return table


def _metrics(found: Sequence[Study], only: Sequence[str]) -> Table:
    """Values, each but the first run's with its ratio to the first; definitions beside one run."""
    table = titled("metrics; × is the ratio to the first run" if len(found) > 1 else "metrics")
    table.add_column("metric", no_wrap=True)
    table.add_column("unit", no_wrap=True)
    for column in found:
        # where columns are narrow, a plan breaks before and after its sizes, not within them
        broken = column.label.replace("(", "\n(").replace(" ", "\n")
        label = broken if len(found) > 1 else column.label
        table.add_column(Text(label), justify="right", overflow="fold")
    if len(found) == 1:
        table.add_column("definition", style="dim")
    words = definitions(on_gpus=all(map(on_gpus, found)))
    for name in only:
        unit, definition = words[name]
        first, *others = [column.metrics[name] for column in found]
        measure = None if name in UNRATED else first
        rated = [f"{number(value)} {ratio(value, measure)}".rstrip() for value in others]
        table.add_row(name, unit, number(first), *rated, *([] if others else [definition]))
    return table


def _plan(run: Run) -> str:
    try:
        return str(run.spec.plan)
    except (FapoolError, OSError):  # written by another version, or cut short
        return "?"


def _verdict(run: Run) -> str:
    try:
        return "passed" if run.correctness.get("passed") is True else "failed"
    except StoreError:
        return "not done"


def _check(run: Run) -> str:
    verdict = _verdict(run)
    if verdict == "not done":
        return verdict
    check = run.correctness
    error = check.get("error")
    shown = f"{error:.2g}" if isinstance(error, float) else error
    return f"{verdict}, error {shown} (tolerance {check.get('tolerance')})"
