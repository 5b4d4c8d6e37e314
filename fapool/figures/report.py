"""One HTML page that defends a comparison: what was asked, measured, how, and that it adds up."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from matplotlib.figure import Figure

from fapool.analysis import kv, measured, memory, metrics, summary
from fapool.analysis.breakdown import PARTS
from fapool.analysis.comparison.table import beside_plan, differences, spreads
from fapool.analysis.sampled import WITHOUT
from fapool.analysis.statistics import doubts
from fapool.analysis.statistics.described import described
from fapool.analysis.steps import timeline
from fapool.analysis.steps.causes import Causes, causes
from fapool.analysis.study import Study, studies
from fapool.errors import StoreError
from fapool.figures import bars, changed, comparison
from fapool.figures.memory import memory_over_time
from fapool.figures.printed import SPREAD, number, ratio, spread, summed
from fapool.figures.render import svg
from fapool.figures.style import COLOURS, rank_name
from fapool.figures.timeline import step_timeline
from fapool.figures.waits import waited, without_rows
from fapool.phases import NO_SPANS, Category
from fapool.store import Run

TEMPLATE = "report.html.j2"


def write_report(runs: Sequence[Run], path: Path | str) -> Path:
    """Write the report of finished, correct runs to `path`; the first is what others are held to.

    The page stands alone: figures inside, nothing loaded from elsewhere.

    Raises:
        StoreError: there is no run, one comes twice, did not finish, or was not correct; or
            `path` cannot be written.
    """
    path = Path(path)
    if path.is_dir():
        raise StoreError(f"{path} is a folder; name a file in it, such as {path / 'report.html'}")
    found = studies(*runs)
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    engine = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    page = engine.get_template(TEMPLATE).render(_contents(found))
    return _write(page, path)


def _write(page: str, path: Path) -> Path:
    """Write all of the page or nothing."""
    scratch = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch.write_text(page, encoding="utf-8")
        return scratch.replace(path)
    except OSError as error:
        raise StoreError(
            f"the report {path} cannot be written ({error.strerror}); name a file in a folder "
            "that is yours"
        ) from None


def _contents(found: list[Study]) -> dict[str, Any]:
    specs = [study.run.spec for study in found]
    differing = differences(*specs)
    requests = {study.label: metrics.per_request(study.tables) for study in found}
    device = "GPU" if _all_on_gpus(found) else "rank"
    sides = comparison.comparison(spreads(found), title="TPOT and TPS", device=device)
    return {
        "title": _title([study.label for study in found]),
        "labels": [study.label for study in found],
        "measured": _measured(found),
        "device": device,
        "no_gpu": not any(measured.on_gpus(study) for study in found),
        "warm": any(spec.warmup for spec in specs),
        "gpus": [spec.plan.world for spec in specs],
        "differences": differing,
        "other_work": list(beside_plan(found)),
        "runs": [_run(study) for study in found],
        "metrics": _metric_rows(found),
        "spread": SPREAD,
        "described": [
            (study.label, sample.name, spread(sample), sample.units)
            for study in found
            for sample in described(study)
        ],
        "changes": [changed.changed(found[0], other) for other in found[1:]],
        "doubts": doubts.of_runs(found),
        "categories": [(category.value, COLOURS[category]) for category in Category],
        "figures": [
            Markup(svg(sides)),
            Markup(svg(comparison.tpot_distribution(requests, title="TPOT of every request"))),
        ],
    }


def _title(labels: Sequence[str]) -> str:
    """What stands beside what; the first is the measure."""
    first, *others = labels
    return f"{first} beside {', '.join(others)}" if others else first


def _all_on_gpus(found: list[Study]) -> bool:
    return all(measured.on_gpus(study) for study in found)


def _measured(found: list[Study]) -> list[tuple[str, list[str]]]:
    """(heading, words of each run); one cell for all where they are the same."""
    words = [measured.measured(study) for study in found]
    rows = [(heading, [run[heading] for run in words]) for heading in words[0]]
    return [(name, cells[:1] if len(set(cells)) == 1 else cells) for name, cells in rows]


def _run(study: Study) -> dict[str, Any]:
    run, label = study.run, study.label
    why = causes(study) if study.has_spans else None
    figures = [*(_of_time(study, why) if why else []), *_of_memory(study)]
    return {
        "label": label,
        "name": run.name,
        "status": run.status,
        "check": run.correctness,
        "spec": run.spec.to_yaml(),
        "environment": _lines(run.environment),
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


def _metric_rows(found: list[Study]) -> list[dict[str, Any]]:
    rows = []
    words = metrics.definitions(on_gpus=_all_on_gpus(found))
    for name, (unit, definition) in words.items():
        first, *others = [study.metrics[name] for study in found]
        measure = None if name in metrics.UNRATED else first
        cells = [(number(first), "")] + [(number(value), ratio(value, measure)) for value in others]
        rows.append({"name": name, "unit": unit, "definition": definition, "cells": cells})
    return rows


def _lines(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Nested JSON as (dotted name, text), in order."""
    if isinstance(value, dict):
        return [line for key in value for line in _lines(value[key], f"{prefix}.{key}".strip("."))]
    if isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        return [line for i, item in enumerate(value) for line in _lines(item, f"{prefix}[{i}]")]
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return [(prefix, text)]
