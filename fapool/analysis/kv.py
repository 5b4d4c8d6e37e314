"""Keys and values by request and by block: what was reserved, what was filled, when most."""

from __future__ import annotations

import pandas as pd

from fapool.analysis.load import Tables
from fapool.topology import place


def per_request(tables: Tables) -> pd.DataFrame:
    """One row per (repeat, rank, request): its peak on that rank, and the step at whose end it was.

    Columns: role, step, blocks (reserved), tokens, bytes (of these tokens), last_tokens (in the
    last block that has any), `fill` (tokens / room of the reserved blocks; NaN without blocks).
    """
    order = ["repeat", "rank", "request", "tokens", "step"]
    ordered = tables.kv.sort_values(order, ascending=[True, True, True, False, True])
    found = ordered.drop_duplicates(["repeat", "rank", "request"]).reset_index(drop=True)
    roles = {rank: str(place(tables.spec, rank).role) for rank in found["rank"].unique()}
    found.insert(2, "role", found["rank"].map(roles))
    room = found["blocks"] * tables.spec.block
    return found.assign(fill=found["tokens"] / room.where(room > 0))


def per_rank(tables: Tables) -> pd.DataFrame:
    """One row per rank at the step in which its cache held most tokens: role, repeat, step,
    requests, blocks, tokens, bytes, and `fill` of the reserved blocks.
    """
    at = ["rank", "repeat", "step"]
    sums = tables.kv.groupby(at, as_index=False).agg(
        requests=("request", "size"),
        blocks=("blocks", "sum"),
        tokens=("tokens", "sum"),
        bytes=("bytes", "sum"),
    )
    found = sums.loc[sums.groupby("rank")["tokens"].idxmax()].reset_index(drop=True)
    roles = {rank: str(place(tables.spec, rank).role) for rank in found["rank"].unique()}
    found.insert(1, "role", found["rank"].map(roles))
    room = found["blocks"] * tables.spec.block
    return found.assign(fill=found["tokens"] / room.where(room > 0))
