"""Runs side by side: a row a metric, a column a run, the ratio to the first run, and chance's part.

What changed phase by phase is in `changes`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from fapool.analysis.comparison.pairs import differences as differences_in_pairs
from fapool.analysis.measured import devices
from fapool.analysis.metrics import DEFINITIONS, UNRATED
from fapool.analysis.statistics.significance import contrast, paired
from fapool.analysis.statistics.units import REPEAT, units
from fapool.analysis.study import Study, studies
from fapool.spec import RunSpec
from fapool.store import Run

CONTRAST = ["a", "b", "change", "low", "high", "p", "test", "hedges_g", "units"]
NOT_COMPARED = {
    "name": True,
    "capture": {"live_hz": True, "profile_steps": True, "memory_snapshot": True},
}
"""Fields that change nothing that is measured; what spans and samples take is in every step."""


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


def contrasts(a: Study, b: Study) -> pd.DataFrame:
    """What a metric of `b` is beside that of `a`; index: metric, of those with an interval in both.

    Columns: a, b, change, low, high (95 % interval of the change), p (of this metric by itself),
    test, hedges_g, units (of what the interval speaks), all but the last four in the metric's
    unit. Steps that did the same work are compared in pairs where there are no repeats; the
    interval then speaks of these two executions alone, and there is no p, test or g.
    """
    sides, pairs, rows = (units(a), units(b)), differences_in_pairs(a, b), {}
    for name in DEFINITIONS:
        if name in pairs:
            values, unit = pairs[name]
            found = paired(values).within()
        elif all(name in side for side in sides):
            first, second = (side[name] for side in sides)
            found = contrast(first.values, second.values)
            unit = " against ".join(dict.fromkeys((first.unit, second.unit)))
            found = found if unit == REPEAT else found.within()
        else:
            continue
        found = found.about(b.metrics[name] - a.metrics[name])
        rows[name] = {"a": a.metrics[name], "b": b.metrics[name], "change": found.difference}
        rows[name] |= {name: getattr(found, name) for name in ("low", "high", "p", "test")}
        rows[name] |= {"hedges_g": found.hedges_g, "units": unit}
    return pd.DataFrame.from_dict(rows, orient="index", columns=CONTRAST).rename_axis("metric")


def spreads(found: Sequence[Study]) -> pd.DataFrame:
    """Metrics of each run with their 95 % intervals: label, metric, value, low, high, units.

    `tpot_mean`, `tps` and `tps_per_charged_gpu`; missing where there is nothing to measure, and
    intervals where there are too few units (see `statistics.units`).
    """
    rows = []
    for study in found:
        own = units(study)
        for name in ("tpot_mean", "tps", "tps_per_charged_gpu"):
            value = study.metrics[name]
            between = own[name].interval if name in own else None
            ends = (between.low, between.high) if between else (np.nan, np.nan)
            rows.append((study.label, name, value, *ends, own[name].unit if between else ""))
    table = pd.DataFrame(rows, columns=["label", "metric", "value", "low", "high", "units"])
    return table.astype({name: float for name in ("value", "low", "high")})


def differences(*specs: RunSpec) -> dict[str, list[Any]]:
    """Dotted field -> value in each spec, for the fields that are not the same in all.

    Those of `NOT_COMPARED` are left out.
    """
    flat = [_flatten(spec.model_dump(mode="json", exclude=NOT_COMPARED)) for spec in specs]
    fields = dict.fromkeys(field for values in flat for field in values)
    rows = {field: [values.get(field) for values in flat] for field in fields}
    return {field: row for field, row in rows.items() if any(value != row[0] for value in row)}


def beside_plan(found: Sequence[Study]) -> dict[str, list[Any]]:
    """What differs beside the plan: fields as of `differences`, and `ran on` where devices do."""
    fields = differences(*(study.run.spec for study in found))
    other = {field: row for field, row in fields.items() if not field.startswith("plan.")}
    ran_on = [devices(study) for study in found]
    return other | ({"ran on": ran_on} if len(set(ran_on)) > 1 else {})


def _flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        inner = isinstance(value, dict)
        found |= _flatten(value, f"{prefix}{key}.") if inner else {f"{prefix}{key}": value}
    return found
