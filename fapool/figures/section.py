"""What a report says of one run: its check, where its steps go, its memory, where it ran."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup
from matplotlib.figure import Figure

from fapool.analysis import kv, memory, summary
from fapool.analysis.breakdown import PARTS
from fapool.analysis.sampled import WITHOUT
from fapool.analysis.steps import timeline
from fapool.analysis.steps.causes import Causes, causes
from fapool.analysis.study import Study
from fapool.errors import StoreError
from fapool.figures import bars
from fapool.figures.memory import memory_over_time
from fapool.figures.printed import summed
from fapool.figures.render import svg
from fapool.figures.style import rank_name
from fapool.figures.timeline import step_timeline
from fapool.figures.waits import waited, without_rows
from fapool.phases import NO_SPANS
from fapool.store import Run


def section(study: Study) -> dict[str, Any]:
    """The values of a run that the template asks for."""
    run, label = study.run, study.label
    why = causes(study) if study.has_spans else None
    figures = [*(_of_time(study, why) if why else []), *_of_memory(study)]
    return {
        "label": label,
        "name": run.name,
        "status": run.status,
        "check": run.correctness,
        "spec": run.spec.to_yaml(),
        **_environment(run),
        "breakdowns": _breakdowns(study) if why else [],
        "no_spans": "" if why else WITHOUT,
        "causes": why.words() if why else [],
        "without": without_rows(why) if why else [],
        "methods": ", ".join(_methods(study)),
        "sampling": study.sampling.words if study.sampling else "",
        "exchanges": study.parted.exchanges,
        "unmatched": study.parted.unmatched,
        "figures": [Markup(svg(figure)) for figure in figures],
        "keys": _keys(study),
    }


def _environment(run: Run) -> dict[str, Any]:
    """`environment`: its lines, none where it cannot be read; `no_environment`: why not."""
    try:
        return {"environment": _lines(run.environment), "no_environment": ""}
    except StoreError as error:
        return {"environment": [], "no_environment": str(error)}


def _of_time(study: Study, why: Causes) -> list[Figure]:
    """Where the steps of a run's usual kind go; of a run that has spans."""
    label, kind, step = study.label, why.kind, timeline.typical_step(study.tables)
    by_rank = summary.by_rank(study.parted, kind)
    return [
        bars.breakdown_per_rank(by_rank, title=f"{label}: where a {kind} step goes", kind=kind),
        step_timeline(
            timeline.one_step(study.tables, step=step),
            title=f"{label}: {kind} step {step}, the nearest to the median",
            critical=timeline.critical_in(study.tables, step=step),
        ),
        *waited(why, label),
    ]


def _of_memory(study: Study) -> list[Figure]:
    """None where no memory was recorded."""
    if study.tables.memory.empty:
        return []
    label, held = study.label, memory.parts_over_time(study.tables)
    return [
        bars.memory_per_rank(memory.peak(study.tables), title=f"{label}: memory of each rank"),
        memory_over_time(held, title=f"{label}: memory over time"),
    ]


def _keys(study: Study) -> list[dict[str, str]]:
    """Of each rank, its cache at the step in which it held most tokens."""
    return [
        {
            "rank": rank_name(row["rank"], row["role"]),
            "requests": f"{row['requests']:,}",
            "tokens": f"{row['tokens']:,}",
            "blocks": f"{row['blocks']:,}",
            "fill": f"{row['fill']:.0%}",
            "mib": f"{row['bytes'] / 2**20:,.1f}",
            "step": f"{row['step']}",
        }
        for row in kv.per_rank(study.tables).to_dict("records")
    ]


def _methods(study: Study) -> list[str]:
    """How spans were timed; `NO_SPANS` alone where there are none."""
    found = sorted(study.tables.steps["method"].unique())
    return [method for method in found if method != NO_SPANS] or found


def _breakdowns(study: Study) -> list[tuple[str, list[dict[str, Any]], dict[str, Any]]]:
    """(kind, rows, phases) for each kind of step, decode first."""
    kinds = sorted(study.parted.steps["kind"].unique())
    tables = {kind: summary.by_rank(study.parted, kind) for kind in kinds}
    return [
        (kind, [_breakdown_row(row) for row in rows], _phases(study, kind, rows))
        for kind, rows in ((kind, table.to_dict("records")) for kind, table in tables.items())
    ]


def _phases(study: Study, kind: str, ranks: list[dict[str, Any]]) -> dict[str, Any]:
    """Names of the ranks, and per category and phase the ms of each of them."""
    found = summary.in_print(study.parted, kind, "phase").reindex(
        columns=[row["rank"] for row in ranks], fill_value=0.0
    )
    rows = [
        {"category": category, "phase": phase, "cells": [f"{ms:.3f}" for ms in row]}
        for (category, phase), row in zip(found.index, found.to_numpy(), strict=True)
    ]
    return {"ranks": [f"{row['rank']} ({row['role']})" for row in ranks], "rows": rows}


def _breakdown_row(row: dict[str, Any]) -> dict[str, Any]:
    parts = [row[part.replace("_ns", "_ms")] for part in PARTS]
    *shown, wall = summed(parts, row["wall_ms"])
    return {
        "rank": f"{row['rank']} ({row['role']})",
        "parts": shown,
        "wall": wall,
        "hidden": f"{row['hidden_ms']:.3f}",
        "steps": row["steps"],
    }


def _lines(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Nested JSON as (dotted name, text), in order."""
    if isinstance(value, dict):
        return [line for key in value for line in _lines(value[key], f"{prefix}.{key}".strip("."))]
    if isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        return [line for i, item in enumerate(value) for line in _lines(item, f"{prefix}[{i}]")]
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return [(prefix, text)]
