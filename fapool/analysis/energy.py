"""What the devices of a run took, each counted once, however many ranks shared it."""

from __future__ import annotations

from fapool.analysis.load import Tables
from fapool.phases import Role
from fapool.topology import place

TICK_NS = 100_000_000
"""NVML's counter of energy moves every 20 to 100 ms."""


def joules(tables: Tables) -> dict[Role | None, float]:
    """Energy of the passes in `steps`: of all devices under None, of each role's own under it.

    Empty where some rank's device could not tell: a part is not the whole. A role is left out where
    a device serves both. Of ranks that share a device the one that measured longest counts.
    """
    world, passes = tables.spec.plan.world, tables.steps["repeat"].unique()
    rows = tables.energy[tables.energy["repeat"].isin(passes)]
    known = rows.groupby("repeat")["rank"].nunique().reindex(passes, fill_value=0)
    if rows.empty or (known < world).any():
        return {}
    roles = {rank: place(tables.spec, rank).role for rank in range(world)}
    devices = rows.assign(role=rows["rank"].map(roles)).groupby(["repeat", "device"])
    each = devices["millijoules"].max() / 1e3
    found: dict[Role | None, float] = {None: float(each.sum())}
    if (devices["role"].nunique() > 1).any():
        return found
    for role, taken in each.groupby(devices["role"].first()):
        found[Role(role)] = float(taken.sum())
    return found


def may_be_off(tables: Tables) -> float | None:
    """By how much of itself the energy of the steps may be off; None where none was read.

    What its readings hold beside the steps, and a tick of the counter, over what the steps take:
    the largest of any pass and rank.
    """
    if not joules(tables):
        return None
    steps = tables.steps.groupby(["repeat", "rank"])
    took = steps["end_ns"].max() - steps["start_ns"].min()
    read = tables.energy.set_index(["repeat", "rank"])
    beside = (read["end_ns"] - read["begin_ns"]).reindex(took.index) - took
    return float(((beside.clip(lower=0) + TICK_NS) / took).max())
