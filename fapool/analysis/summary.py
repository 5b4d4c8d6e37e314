"""A breakdown told shorter: means per step by rank, phase or layer, and rows that add up in print.

Means are over the steps of one kind and all repeats; `None` takes steps of every kind. Where steps
were sampled, over those.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from fapool.analysis.breakdown import ORDER, PARTS, Breakdown
from fapool.analysis.kinds import of_kind

COLUMNS = ["wall_ms", *(part.replace("_ns", "_ms") for part in PARTS), "hidden_ms"]


def by_rank(parted: Breakdown, kind: str | None = "decode") -> pd.DataFrame:
    """One row per rank: rank, role, steps, and the mean per step of wall, parts and hidden, ms."""
    steps = of_kind(parted.steps, kind)
    ranks = steps.groupby(["rank", "role"])
    sums = ranks[["wall_ns", *PARTS, "hidden_ns"]].sum()
    counts = ranks.size()
    means = sums.div(counts, axis=0).div(1e6).set_axis(COLUMNS, axis=1)
    means.insert(0, "steps", counts)
    return means.reset_index()


def by_phase(parted: Breakdown, kind: str | None = "decode") -> pd.DataFrame:
    """One row per (rank, category, phase): `ms`, mean per step of the rank; idle left out."""
    return _shares(parted, kind, ["category", "phase"])


def by_layer(parted: Breakdown, kind: str | None = "decode") -> pd.DataFrame:
    """One row per (rank, layer, category): `ms`, mean per step; layer -1: outside of all."""
    return _shares(parted, kind, ["layer", "category"])


def in_print(parted: Breakdown, kind: str | None, key: str) -> pd.DataFrame:
    """Rounded ms per step by (category, `key`) and rank; `key`: "phase" or "layer".

    Rows of a category sum on each rank to what that category of `by_rank` is as printed. Phases
    come the longest first, layers in order; what is zero on every rank is left out.
    """
    shares, wholes = _shares(parted, kind, ["category", key]), {}
    for row in by_rank(parted, kind).to_dict("records"):
        shown, _ = rounded([row[part] for part in COLUMNS[1:-1]], row["wall_ms"])
        wholes |= {(row["rank"], category): ms for category, ms in zip(ORDER, shown, strict=True)}
    for place, own in shares.groupby(["rank", "category"]):
        shares.loc[own.index, "ms"] = rounded(own["ms"].tolist(), wholes[place])[0]
    found = shares.pivot_table("ms", ["category", key], "rank", fill_value=0.0)
    found = found[(found > 0).any(axis=1)]
    place = found.index.get_level_values("category").map(ORDER.index)
    within = -found.max(axis=1) if key == "phase" else found.index.get_level_values(key)
    return found.iloc[np.lexsort((within, place))]


def rounded(parts: Sequence[float], whole: float, decimals: int = 3) -> tuple[list[float], float]:
    """`parts` and `whole` rounded so that the rounded parts sum to the rounded whole.

    Largest remainder: each part is within one unit of the last place of what it was. The parts
    must sum to the whole before rounding.
    """
    unit = 10**decimals
    scaled = np.asarray(parts, float) * unit
    floors = np.floor(scaled + 1e-6).astype(int)
    lacking = round(whole * unit) - int(floors.sum())
    assert 0 <= lacking <= len(scaled), f"{parts} do not sum to {whole}"
    floors[np.argsort(floors - scaled, kind="stable")[:lacking]] += 1
    return [int(value) / unit for value in floors], round(whole * unit) / unit


def _shares(parted: Breakdown, kind: str | None, keys: list[str]) -> pd.DataFrame:
    steps = of_kind(parted.steps, kind)
    chosen = steps[["repeat", "rank", "step"]]
    sums = parted.shares.merge(chosen).groupby(["rank", *keys], as_index=False)["ns"].sum()
    counts = steps.groupby("rank").size()
    sums["ms"] = sums.pop("ns") / sums["rank"].map(counts) / 1e6
    return sums
