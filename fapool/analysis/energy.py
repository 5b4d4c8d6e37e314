"""What the devices of a run took, each counted once, however many ranks shared it."""

from __future__ import annotations

from fapool.analysis.load import Tables
from fapool.phases import Role
from fapool.topology import place


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
