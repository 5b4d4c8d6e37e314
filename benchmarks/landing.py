"""Whether delays that were put into a run on purpose are found where they were put."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from fapool.analysis.breakdown import breakdown
from fapool.analysis.load import load
from fapool.phases import Category
from fapool.store import Run

TOLERANCE = 0.05


@dataclass(frozen=True, kw_only=True)
class Found:
    """What came of a plant, per decode step that it delayed, median ms."""

    steps: int
    planted_ms: float
    found_ms: float  # more in its category and phase than without it
    stray: str  # the part of the rank that grew most beside it
    stray_ms: float

    @property
    def error(self) -> float:
        """Of what was planted."""
        return self.found_ms / self.planted_ms - 1

    @property
    def holds(self) -> bool:
        """Whether it was found where it was put, and nowhere else."""
        return max(abs(self.error), self.stray_ms / self.planted_ms) <= TOLERANCE


def judge(
    run: Run, notes: Sequence[Sequence[int]], *, rank: int, category: str, phase: str
) -> Found:
    """Whether the delays of `notes`, (repeat, step, ns) each, are found on a rank in one part.

    Delayed decode steps, all of odd repeats, are held against the same steps of even repeats.
    """
    parts = _parts(run, rank)
    even = parts.index.get_level_values("repeat") % 2 == 0
    bare = parts[even].groupby("step").median()
    delayed = {(at, number): ns for at, number, ns in notes}
    put = pd.Series(delayed, dtype="int64").rename_axis(["repeat", "step"])
    assert len(put), "no step was delayed"
    kept = put.index
    more = parts.loc[kept] - bare.loc[kept.get_level_values("step")].to_numpy()
    key = (str(category), str(phase))
    beside = (more[key] - put).median() / 1e6  # step by step, so that delays may be unequal
    others = more.drop(columns=[key]).median() / 1e6
    planted_ms = float(put.median()) / 1e6
    return Found(
        steps=len(put),
        planted_ms=planted_ms,
        found_ms=planted_ms + float(beside),
        stray=" ".join(others.idxmax()).strip(),
        stray_ms=float(others.max()),
    )


def _parts(run: Run, rank: int) -> pd.DataFrame:
    """ns of each (category, phase) of a rank, a row a (repeat, decode step); idle has no phase."""
    parted, keys = breakdown(load(run)), ["repeat", "step"]
    steps = parted.steps[(parted.steps["rank"] == rank) & (parted.steps["kind"] == "decode")]
    steps = steps.set_index(keys)
    shares = parted.shares[parted.shares["rank"] == rank]
    sums = shares.groupby([*keys, "category", "phase"])["ns"].sum()
    table = sums.unstack([2, 3], fill_value=0).reindex(steps.index, fill_value=0)
    table.columns = pd.MultiIndex.from_tuples([tuple(map(str, pair)) for pair in table.columns])
    table[(str(Category.IDLE), "")] = steps["idle_ns"]
    return table
