"""What each rank's memory held: by owner, at its peak and over time.

Owners are readings of different kinds: weights, KV, activations and buffers are parts; `kv_used`
lies inside `kv`; `allocator` and `device` are wholes, and are never added to the parts.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from fapool.analysis.load import Tables
from fapool.phases import Owner
from fapool.topology import place

PARTS = (Owner.WEIGHTS, Owner.KV, Owner.ACTIVATIONS, Owner.BUFFERS)
SUM = "sum"
"""Stands among the owners for all parts of one reading together."""

_READING = ["repeat", "rank", "step", "time_ns"]


def peak(tables: Tables) -> pd.DataFrame:
    """Highest reading, the earliest of equals, one row per (rank, role, owner), `SUM` among them.

    Columns `bytes` and its moment: `repeat`, `step`, `time_s` since the repeat's first step.
    """
    found = pd.concat([tables.memory, _sums(tables.memory)], ignore_index=True)
    found = found.sort_values("time_ns", kind="stable", ignore_index=True)
    highest = found.loc[found.groupby(["rank", "owner"])["bytes"].idxmax()]
    highest = highest.sort_values(["rank", "owner"], ignore_index=True)
    columns = highest[["rank", "owner", "bytes", "repeat", "step"]].assign(
        time_s=_since_repeat(tables, highest)
    )
    columns.insert(1, "role", columns["rank"].map(_roles(tables)))
    return columns


def over_time(tables: Tables, owner: Owner) -> pd.DataFrame:
    """Readings of one owner: repeat, rank, step, time_s since the repeat's first step, bytes."""
    own = tables.memory[tables.memory["owner"] == owner].sort_values(["rank", "time_ns"])
    columns = own[["repeat", "rank", "step", "bytes"]].assign(time_s=_since_repeat(tables, own))
    return columns.reset_index(drop=True)


def parts_over_time(tables: Tables, most: int = 1000) -> pd.DataFrame:
    """One row per reading: repeat, rank, role, step, time_s, and bytes by part, `kv_used` too.

    `time_s` is since the first step of the run. Of more than `most` readings of a rank, as many are
    taken at even distances as the highest of their neighbours: the peak is always among them.
    """
    owners = [owner.value for owner in (*PARTS, Owner.KV_USED)]
    table = tables.memory.pivot_table(index=_READING, columns="owner", values="bytes", sort=True)
    table = table.reindex(columns=owners).fillna(0).astype("int64").reset_index()
    table = table.sort_values(["rank", "time_ns"], ignore_index=True)
    totals = table[[part.value for part in PARTS]].sum(axis=1)
    ordinal = table.groupby("rank").cumcount()
    readings = table.groupby("rank")["step"].transform("size")
    bins = ordinal // np.maximum(1, -(-readings // most))
    table = table.loc[totals.groupby([table["rank"], bins]).idxmax()].reset_index(drop=True)
    began = tables.steps["start_ns"].min()
    table.insert(2, "role", table["rank"].map(_roles(tables)))
    table.insert(4, "time_s", (table.pop("time_ns") - began) / 1e9)
    return table.rename_axis(columns=None)


def _sums(memory: pd.DataFrame) -> pd.DataFrame:
    parts = memory[memory["owner"].isin([part.value for part in PARTS])]
    return parts.groupby(_READING, as_index=False)["bytes"].sum().assign(owner=SUM)


def _since_repeat(tables: Tables, readings: pd.DataFrame) -> pd.Series:
    began = tables.steps.groupby("repeat")["start_ns"].min()
    return (readings["time_ns"] - readings["repeat"].map(began).astype("int64")) / 1e9


def _roles(tables: Tables) -> dict[int, str]:
    return {rank: str(place(tables.spec, rank).role) for rank in range(tables.spec.plan.world)}
