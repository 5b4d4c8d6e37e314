"""What changed from one run to another in a step, phase by phase; the parts sum to the change.

Of the steps that had spans (all, or the sampled ones), and of the roles that both runs have.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from fapool.analysis.samples import blocks_of
from fapool.analysis.significance import contrast, holm
from fapool.analysis.statistics import LEAST_UNITS, unit_values
from fapool.analysis.study import Study
from fapool.phases import Category, Role

KEYS = ["category", "phase"]
COLUMNS = ["a_ms", "b_ms", "change_ms", "low_ms", "high_ms", "p"]


@dataclass(frozen=True, kw_only=True)
class Change:
    """One role's mean step in two runs, per rank of the role.

    `parts`: a row per (category, phase), the largest change first: a_ms, b_ms, change_ms, low_ms,
    high_ms (95 % interval of the change), p (Holm over the parts). Idle has no phase (""). `step`:
    the same of the whole step; its p is by itself. `units`: of what the intervals speak, a and b.

    Invariant: the parts sum to the step, in a, in b and in what changed.
    """

    role: Role
    kind: str
    parts: pd.DataFrame
    step: pd.Series
    units: tuple[str, str]

    def __post_init__(self) -> None:
        for name in ("a_ms", "b_ms", "change_ms"):
            sums, whole = self.parts[name].sum(), self.step[name]
            scale = max(self.step["a_ms"], self.step["b_ms"], 1e-9)
            assert abs(sums - whole) <= 1e-9 * scale, f"parts do not sum to the step in {name}"


@dataclass(frozen=True)
class _Side:
    """A role's steps in one run: `ns` [steps, parts] over its ranks, and each step's unit."""

    ns: pd.DataFrame
    ranks: int
    units: np.ndarray
    unit: str

    def of(self, key: tuple[str, str]) -> np.ndarray:
        """Values of a part's units, ms a step and rank; zeros where the run has no such part."""
        if key not in self.ns.columns:
            return np.zeros(len(np.unique(self.units)))
        return self.values(self.ns[key].to_numpy())

    def values(self, ns: np.ndarray) -> np.ndarray:
        return unit_values(ns / 1e6, np.full(len(ns), float(self.ranks)), self.units)


def changes(a: Study, b: Study, kind: str | None = None) -> list[Change]:
    """What changed from `a` to `b`, per role that both have.

    `kind` None takes decode steps, or prefill steps where a run has no decode steps.
    """
    kinds = [set(study.parted.steps["kind"]) for study in (a, b)]
    kind = kind or ("decode" if all("decode" in found for found in kinds) else "prefill")
    found = []
    for role in Role:
        sides = [_side(study, role, kind) for study in (a, b)]
        if all(sides):
            found.append(_change(role, kind, *sides))
    return found


def _side(study: Study, role: Role, kind: str) -> _Side | None:
    steps = study.parted.steps
    steps = steps[(steps["role"] == role) & (steps["kind"] == kind)]
    if steps.empty:
        return None
    keys = ["repeat", "step"]
    own = steps[[*keys, "rank"]]
    shares = study.parted.shares.merge(own).groupby([*keys, *KEYS])["ns"].sum()
    ns = shares.unstack(KEYS, fill_value=0)
    sums = steps.groupby(keys)[["wall_ns", f"{Category.IDLE}_ns"]].sum()
    ns = ns.reindex(sums.index, fill_value=0)
    ns.columns = list(ns.columns)  # plain pairs
    ns[(Category.IDLE, "")] = sums[f"{Category.IDLE}_ns"]
    assert (ns.sum(axis=1) == sums["wall_ns"]).all(), "phases and idle do not sum to the wall"
    units, unit = _units(sums)
    return _Side(ns, steps["rank"].nunique(), units, unit)


def _units(sums: pd.DataFrame) -> tuple[np.ndarray, str]:
    repeats = sums.index.get_level_values("repeat")
    if repeats.nunique() >= LEAST_UNITS:
        return repeats.to_numpy(), "repeat"
    number, length = blocks_of(sums.reset_index(), sums["wall_ns"].to_numpy(float))
    return number, f"block of {length} step{'' if length == 1 else 's'}"


def _change(role: Role, kind: str, a: _Side, b: _Side) -> Change:
    keys = list(dict.fromkeys([*a.ns.columns, *b.ns.columns]))
    rows = [(*key, *_row(a.of(key), b.of(key))) for key in keys]
    parts = pd.DataFrame(rows, columns=[*KEYS, *COLUMNS])
    parts["p"] = holm(parts["p"])
    order = parts["change_ms"].abs().sort_values(ascending=False, kind="stable").index
    walls = [side.values(side.ns.sum(axis=1).to_numpy()) for side in (a, b)]
    return Change(
        role=role,
        kind=kind,
        parts=parts.loc[order].reset_index(drop=True),
        step=pd.Series(_row(*walls), COLUMNS),
        units=(a.unit, b.unit),
    )


def _row(a: np.ndarray, b: np.ndarray) -> tuple[float, ...]:
    found = contrast(a, b)
    return (a.mean(), b.mean(), found.difference, found.low, found.high, found.p)
