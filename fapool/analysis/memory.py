"""What each rank's memory held: by owner, at its peak and over time.

Owners are readings of different kinds: weights, KV, activations and buffers are parts; `kv_used`
lies inside `kv`; `allocator` and `device` are wholes, and are never added to the parts.
"""

from __future__ import annotations

import pandas as pd

from fapool.analysis.load import Tables
from fapool.phases import Owner
from fapool.topology import place

PARTS = (Owner.WEIGHTS, Owner.KV, Owner.ACTIVATIONS, Owner.BUFFERS)


def peak(tables: Tables) -> pd.DataFrame:
    """Highest reading, one row per (rank, role, owner): `bytes`."""
    found = tables.memory.groupby(["rank", "owner"], as_index=False)["bytes"].max()
    roles = {rank: str(place(tables.spec, rank).role) for rank in found["rank"].unique()}
    found.insert(1, "role", found["rank"].map(roles))
    return found


def over_time(tables: Tables, owner: Owner) -> pd.DataFrame:
    """Readings of one owner: repeat, rank, step, time_s since the repeat's first step, bytes."""
    own = tables.memory[tables.memory["owner"] == owner].sort_values(["rank", "time_ns"])
    began = tables.steps.groupby("repeat")["start_ns"].min()
    since = own["time_ns"] - own["repeat"].map(began).astype("int64")
    columns = own[["repeat", "rank", "step", "bytes"]].assign(time_s=since / 1e9)
    return columns.reset_index(drop=True)
