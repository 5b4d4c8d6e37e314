"""Print a partition finer than by rank: by phase, by layer, and all of it as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from fapool.analysis import summary
from fapool.analysis.breakdown import Breakdown
from fapool.analysis.deep.agreement import traced_run
from fapool.analysis.sampled import WITHOUT
from fapool.analysis.study import Study
from fapool.cli.tables import NARROW, titled, write_json
from fapool.errors import FapoolError, SpecError
from fapool.phases import Category

NAMES_WIDTH, RANK_WIDTH = 36, 10
"""Columns of a terminal: of category and phase, and of a rank."""

BUSY = [category.value for category in Category if category is not Category.IDLE]


def print_phases(parted: Breakdown, kind: str, console: Console) -> None:
    """ms of each phase on each rank, as printed the sums of its category in the breakdown.

    Ranks that are wider than the terminal come in several tables.
    """
    found = summary.in_print(parted, kind, "phase")
    names = _names(parted)
    room = max(1, (console.width - NAMES_WIDTH) // RANK_WIDTH)
    for start in range(0, len(found.columns), room):
        ranks = found.columns[start : start + room]
        table = titled(f"the same by phase: mean ms per {kind} step")
        table.add_column("counts as", no_wrap=True)
        table.add_column("phase", no_wrap=True)
        for rank in ranks:
            table.add_column(names[rank], justify="right", no_wrap=True)
        for category, rows in found[ranks].groupby(level="category", sort=False):
            table.add_section()
            for number, ((_, phase), row) in enumerate(rows.iterrows()):
                table.add_row("" if number else category, phase, *(f"{ms:.3f}" for ms in row))
        console.print(table)


def print_layers(parted: Breakdown, console: Console) -> None:
    """ms of each layer on each rank by category; columns sum to the breakdown's, as printed."""
    names = _names(parted)
    for kind in parted.steps["kind"].unique():
        found = summary.in_print(parted, kind, "layer").unstack("category", fill_value=0.0)
        table = titled(f"the same by layer: mean ms per {kind} step")
        for head in ("rank", "layer"):
            table.add_column(head, no_wrap=True)
        for head in (*BUSY, "= not idle"):
            table.add_column(NARROW.get(head, head), justify="right")
        for rank in found.columns.unique("rank"):
            table.add_section()
            own = found[rank].reindex(columns=BUSY, fill_value=0.0)
            for number, (layer, row) in enumerate(own.iterrows()):
                name = "outside" if layer < 0 else str(layer)
                cells = [f"{ms:.3f}" for ms in (*row, row.sum())]
                table.add_row("" if number else names[rank], name, *cells)
        console.print(table)


def write_partition(found: Study, out: Path) -> None:
    """Every step and its time by (category, phase, layer) in ns, the traced ones by kernels too.

    Raises:
        SpecError: the run has no spans, or `out` cannot be written.
    """
    if not found.has_spans:
        raise SpecError("--json", str(out), WITHOUT)
    record = {"run": found.run.name, "plan": str(found.run.spec.plan)} | _partition(found.parted)
    write_json(out, record | {"traced_by_kernels": _by_kernels(found)})


def _by_kernels(found: Study) -> dict[str, Any] | None:
    """None where no step was traced, or the traces cannot be read."""
    try:
        traced = traced_run(found.run)
    except FapoolError:
        return None
    return traced and _partition(traced.found.parted)


def _partition(parted: Breakdown) -> dict[str, Any]:
    return {name: getattr(parted, name).to_dict("records") for name in ("steps", "shares")}


def _names(parted: Breakdown) -> dict[int, str]:
    ranks: pd.DataFrame = parted.steps[["rank", "role"]].drop_duplicates("rank")
    return {row.rank: f"{row.rank} ({row.role})" for row in ranks.itertuples()}
