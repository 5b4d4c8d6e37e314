"""What changed from one run to another in a step, phase by phase; the parts sum to the change.

Of the steps that had spans (all, or the sampled ones), and of the roles that both runs have. Steps
that did the same work in both runs are compared in pairs, unless there are repeats to resample.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from fapool.analysis.comparison.disturbance import disturbance
from fapool.analysis.comparison.pairs import same_work
from fapool.analysis.kinds import usual
from fapool.analysis.sampled import Sampling
from fapool.analysis.statistics.sample import LEAST_UNITS, unit_values
from fapool.analysis.statistics.significance import Contrast, contrast, holm, paired
from fapool.analysis.statistics.units import REPEAT, blocks_of
from fapool.analysis.study import Study
from fapool.phases import Category, Role

KEYS = ["category", "phase"]
SMALL = 0.002
"""Of the step, in both runs: smaller parts need not be shown one by one."""

Against = Callable[[pd.Series, pd.Series], Contrast]
COLUMNS = ["a_ms", "b_ms", "change_ms", "low_ms", "high_ms", "p"]


@dataclass(frozen=True, kw_only=True)
class Change:
    """One role's mean step in two runs, per rank of the role.

    `parts`: a row per (category, phase), the largest change first: a_ms, b_ms, change_ms, low_ms,
    high_ms (95 % interval of the change), p (Holm over the parts). Idle has no phase (""). `step`:
    the same of the whole step; its p is by itself. `units`: of what the intervals speak. Where
    these are not repeats, intervals speak of these two executions alone and there is no p (NaN).
    `sampled`: whether these are sampled steps, in either run. `disturbance`: a warning that what
    sampling adds is not small against what changed; then nothing has a p.

    Invariant: the parts sum to the step, in a, in b and in what changed.
    """

    role: Role
    kind: str
    parts: pd.DataFrame
    step: pd.Series
    units: str
    sampled: bool = False
    disturbance: str = ""

    @property
    def noun(self) -> str:
        """`sampled decode step`: of what the parts are."""
        return f"{'sampled ' if self.sampled else ''}{self.kind} step"

    @property
    def tested(self) -> bool:
        """Whether parts and step have a p."""
        return not self.within and not self.disturbance

    @property
    def within(self) -> bool:
        """Whether the intervals are of what varies inside these runs, and nothing has a p."""
        return self.units != REPEAT

    def __post_init__(self) -> None:
        for name in ("a_ms", "b_ms", "change_ms"):
            sums, whole = self.parts[name].sum(), self.step[name]
            scale = max(self.step["a_ms"], self.step["b_ms"], 1e-9)
            assert abs(sums - whole) <= 1e-9 * scale, f"parts do not sum to the step in {name}"


@dataclass(frozen=True)
class _Side:
    """A role's steps in one run: `ms` [steps, parts] and `wall` [steps], means over its ranks."""

    ms: pd.DataFrame
    wall: pd.Series

    def of(self, key: tuple[str, str] | None) -> pd.Series:
        """A part's ms [steps], the wall for None; zeros where the run has no such part."""
        if key is None:
            return self.wall
        return self.ms[key] if key in self.ms.columns else self.wall * 0.0

    def units(self) -> tuple[np.ndarray, str]:
        """(unit of each step, what it is)."""
        repeats = self.wall.index.get_level_values("repeat")
        if self.repeated:
            return repeats.to_numpy(), REPEAT
        blocks = blocks_of(self.wall.reset_index(), self.wall.to_numpy())
        return blocks.number, blocks.words(step="step")

    @property
    def repeated(self) -> bool:
        """Whether there are repeats enough to resample."""
        return self.wall.index.get_level_values("repeat").nunique() >= LEAST_UNITS


def changes(a: Study, b: Study, kind: str | None = None) -> list[Change]:
    """What changed from `a` to `b`, per role that both have.

    `kind` None takes decode steps, or prefill steps where a run has no decode steps. Nothing where
    a run has no spans: its steps have no parts.
    """
    if not (a.has_spans and b.has_spans):
        return []
    kind = kind or usual(a.parted.steps, b.parted.steps)
    alike = same_work(a.tables, b.tables)
    samplings = (a.sampling, b.sampling) if kind == "decode" else (None, None)
    found = []
    for role in Role:
        sides = [_side(study, role, kind) for study in (a, b)]
        if all(sides):
            change = _change(role, kind, *sides, alike=alike)
            found.append(_with_sampling(change, samplings))
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
    scale = 1e6 * steps["rank"].nunique()
    return _Side(ns / scale, sums["wall_ns"] / scale)


def _change(role: Role, kind: str, a: _Side, b: _Side, *, alike: bool) -> Change:
    against, units = _by_pairs(a, b) if _in_pairs(a, b, alike) else _by_units(a, b)
    keys = list(dict.fromkeys([*a.ms.columns, *b.ms.columns]))
    rows = [(*key, *_row(a, b, key, against)) for key in keys]
    parts = pd.DataFrame(rows, columns=[*KEYS, *COLUMNS])
    parts["p"] = holm(parts["p"])
    order = parts["change_ms"].abs().sort_values(ascending=False, kind="stable").index
    return Change(
        role=role,
        kind=kind,
        parts=parts.loc[order].reset_index(drop=True),
        step=pd.Series(_row(a, b, None, against), COLUMNS),
        units=units,
    )


def _with_sampling(change: Change, samplings: tuple[Sampling | None, Sampling | None]) -> Change:
    sampled, said = any(samplings), disturbance(change.step, samplings)
    if not said:
        return replace(change, sampled=sampled)
    parts, step = change.parts.assign(p=np.nan), pd.Series({**change.step, "p": np.nan})
    return replace(change, parts=parts, step=step, sampled=sampled, disturbance=said)


def _in_pairs(a: _Side, b: _Side, alike: bool) -> bool:
    return alike and not (a.repeated and b.repeated) and a.wall.index.equals(b.wall.index)


def _by_pairs(a: _Side, b: _Side) -> tuple[Against, str]:
    apart = b.wall - a.wall
    blocks = blocks_of(apart.reset_index(), apart.to_numpy())

    def against(first: pd.Series, second: pd.Series) -> Contrast:
        apart = (second - first).round(12).to_numpy()  # a millionth of a ns: no rounding errors
        return paired(unit_values(apart, np.ones(len(apart)), blocks.number)).within()

    return against, f"pairs of {blocks.words('s', 'step')}"


def _by_units(a: _Side, b: _Side) -> tuple[Against, str]:
    (own, unit), (other, other_unit) = a.units(), b.units()
    words = unit if unit == other_unit else f"{unit} against {other_unit}"

    def against(first: pd.Series, second: pd.Series) -> Contrast:
        values = [
            unit_values(ms, np.ones(len(ms)), units)
            for ms, units in ((first, own), (second, other))
        ]
        found = contrast(*values)
        return found if words == REPEAT else found.within()

    return against, words


def _row(a: _Side, b: _Side, key: tuple[str, str] | None, against: Against) -> tuple[float, ...]:
    first, second = a.of(key), b.of(key)
    found = against(first, second)
    return (first.mean(), second.mean(), found.difference, found.low, found.high, found.p)


def folded(change: Change) -> pd.DataFrame:
    """The parts, those that are small in both runs added up to one row without interval and p."""
    parts = change.parts
    limit = SMALL * change.step[["a_ms", "b_ms"]].max()
    small = parts[["a_ms", "b_ms"]].max(axis=1) <= limit
    if small.sum() < 2:
        return parts
    rest = parts.loc[small, ["a_ms", "b_ms", "change_ms"]].sum()
    row = {"phase": f"{small.sum()} others", "category": "", "low_ms": None, "high_ms": None}
    others = pd.DataFrame([row | {"p": None} | rest.to_dict()])
    return pd.concat([parts[~small], others.astype(parts.dtypes)], ignore_index=True)
