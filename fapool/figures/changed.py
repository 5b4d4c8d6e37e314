"""What changed from one run to another, for the report: tables, and a figure per role."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from fapool.analysis.comparison.changes import Change, changes, folded
from fapool.analysis.comparison.table import contrasts
from fapool.analysis.sampled import WITHOUT
from fapool.analysis.statistics.units import scope
from fapool.analysis.study import Study
from fapool.analysis.summary import rounded
from fapool.figures.changes import step_changes
from fapool.figures.printed import between, number, probability
from fapool.figures.render import svg


def changed(a: Study, b: Study) -> dict[str, Any]:
    """All that the template says of `b` against `a`."""
    roles = [_role(change, a, b) for change in changes(a, b)]
    without = [f"{study.label}: {WITHOUT}" for study in (a, b) if not study.has_spans]
    found = {"a": a.label, "b": b.label, "metrics": _metrics(a, b)}
    return found | {"roles": roles, "without": without}


def _metrics(a: Study, b: Study) -> list[list[str]]:
    return [
        [
            str(name),
            *(number(row[column]) for column in ("a", "b", "change")),
            between(row["low"], row["high"]),
            probability(row["p"]),
            row["test"] or "–",
            number(row["hedges_g"]),
            row["units"],
        ]
        for name, row in contrasts(a, b).iterrows()
    ]


def _role(change: Change, a: Study, b: Study) -> dict[str, Any]:
    parts, step = folded(change), change.step
    shown = [rounded(parts[name].tolist(), step[name], 4) for name in ("a_ms", "b_ms", "change_ms")]
    rows = [
        {
            "phase": row["phase"] or row["category"],
            "category": row["category"],
            "cells": [
                *(f"{column[at]:.4f}" for column, _ in shown),
                between(row["low_ms"], row["high_ms"], "{:+.4f}"),
                probability(row["p"]),
            ],
        }
        for at, row in enumerate(parts.to_dict("records"))
    ]
    title = f"{b.label} against {a.label}: a {change.noun} of a {change.role} rank"
    return {
        "role": change.role,
        "noun": change.noun,
        "scope": scope(change.units),
        "disturbance": change.disturbance,
        "rows": rows,
        "step": [
            *(f"{whole:.4f}" for _, whole in shown),
            between(step["low_ms"], step["high_ms"], "{:+.4f}"),
            probability(step["p"]),
        ],
        "figure": Markup(svg(step_changes(change, title=title))),
    }
