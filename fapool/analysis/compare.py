"""Runs side by side: a row a metric, a column a run, and the ratio to the first run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from fapool.analysis.metrics import DEFINITIONS, UNRATED, per_repeat, per_request
from fapool.analysis.study import Study, studies
from fapool.spec import RunSpec
from fapool.store import Run

NOT_COMPARED = {"name", "capture"}


def compare(*runs: Run) -> pd.DataFrame:
    """Index: metric. Columns: `unit`, one per run by its label, `<label> / first` for the others.

    Numbers of GPUs have no ratio (NaN): they are no achievement.

    Raises:
        StoreError: there is no run, one comes twice, did not finish, or was not correct.
    """
    return side_by_side(studies(*runs))


def side_by_side(found: Sequence[Study]) -> pd.DataFrame:
    """The table of `compare` for runs that are analysed already."""
    columns = {study.label: study.metrics for study in found}
    table = pd.DataFrame(columns, index=list(DEFINITIONS), dtype=float)
    first, *others = columns
    rated = table[first].drop(list(UNRATED))
    table = table.assign(**{f"{label} / first": table[label] / rated for label in others})
    table.insert(0, "unit", [unit for unit, _ in DEFINITIONS.values()])
    return table.rename_axis("metric")


def spreads(found: Sequence[Study]) -> pd.DataFrame:
    """What varies inside a run: label, metric, value, low, high.

    `tpot_mean`: 5th to 95th percentile over requests; `tps`, `tps_per_charged_gpu`: lowest and
    highest repeat (charged GPUs as in the whole run). Missing where there is nothing to measure.
    """
    rows = []
    for study in found:
        tpot = per_request(study.tables)["tpot_ms"].dropna()
        low, high = np.percentile(tpot, [5, 95]) if len(tpot) else (np.nan, np.nan)
        rows.append((study.label, "tpot_mean", study.metrics["tpot_mean"], low, high))
        tps = per_repeat(study.tables)["tps"]
        for name in ("tps", "tps_per_charged_gpu"):
            value = study.metrics[name]
            scale = value / study.metrics["tps"] if value else np.nan
            rows.append((study.label, name, value, tps.min() * scale, tps.max() * scale))
    table = pd.DataFrame(rows, columns=["label", "metric", "value", "low", "high"])
    return table.astype({name: float for name in ("value", "low", "high")})


def differences(*specs: RunSpec) -> dict[str, list[Any]]:
    """Dotted field -> value in each spec, for the fields that are not the same in all.

    Name and capture are left out: they change nothing that is measured.
    """
    flat = [_flatten(spec.model_dump(mode="json", exclude=NOT_COMPARED)) for spec in specs]
    fields = dict.fromkeys(field for values in flat for field in values)
    rows = {field: [values.get(field) for values in flat] for field in fields}
    return {field: row for field, row in rows.items() if any(value != row[0] for value in row)}


def _flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        inner = isinstance(value, dict)
        found |= _flatten(value, f"{prefix}{key}.") if inner else {f"{prefix}{key}": value}
    return found
