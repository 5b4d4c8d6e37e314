"""One HTML page that defends a comparison: what was asked, measured, how, and that it adds up."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from fapool.analysis import measured, metrics
from fapool.analysis.comparison.table import beside_plan, differences, spreads
from fapool.analysis.statistics import doubts
from fapool.analysis.statistics.described import described
from fapool.analysis.study import Study, studies
from fapool.errors import StoreError
from fapool.figures import changed, comparison
from fapool.figures.printed import SPREAD, number, ratio, spread
from fapool.figures.render import svg
from fapool.figures.section import section
from fapool.figures.style import COLOURS
from fapool.phases import Category
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
        "runs": [section(study) for study in found],
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


def _metric_rows(found: list[Study]) -> list[dict[str, Any]]:
    rows = []
    words = metrics.definitions(on_gpus=_all_on_gpus(found))
    for name, (unit, definition) in words.items():
        first, *others = [study.metrics[name] for study in found]
        measure = None if name in metrics.UNRATED else first
        cells = [(number(first), "")] + [(number(value), ratio(value, measure)) for value in others]
        rows.append({"name": name, "unit": unit, "definition": definition, "cells": cells})
    return rows
