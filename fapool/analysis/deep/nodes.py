"""Which node of a captured graph each record of its replay is.

Records of a replay share one correlation id. A stream runs its nodes in order of capture; streams
run side by side, so that over all of them the order of start says nothing. Where the trace gives
ids of nodes, they count up in order of capture.

    captured   a  b  n  c  d        stream 7   a  b  c  d
                                    stream 9         n          n's name is found on stream 9 alone
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Node = tuple[str, str]

UNLIKE = "the names of its kernels are not those that were captured"


def place(records: pd.DataFrame, nodes: Sequence[Node]) -> tuple[Ints | None, str]:
    """Place in `nodes` of every record of one replay, [records], and what speaks against it.

    `records` has columns name, kind, stream, start_ns, graph_node. None where their numbers differ,
    or streams ran side by side and names do not tell them apart.
    """
    if len(records) != len(nodes):
        return None, f"it left {len(records)} records where {len(nodes)} nodes were captured"
    ids = records["graph_node"].to_numpy()
    numbered = len(np.unique(ids)) == len(ids) and (ids >= 0).all()
    order = np.argsort(ids if numbered else records["start_ns"].to_numpy(), kind="stable")
    found = np.empty(len(records), np.int64)
    seen = [_key(kind, name) for kind, name in zip(records["kind"], records["name"], strict=True)]
    captured = [_key(kind, name) for kind, name in nodes]
    alike = _alike(captured, [seen[row] for row in order])
    side_by_side = not numbered and records["stream"].nunique() > 1
    if side_by_side and "" in captured:
        return None, "streams ran side by side, and its kernels' names are unknown"
    if alike or not side_by_side:
        found[order] = np.arange(len(records))
        return found, "" if alike else UNLIKE
    return _by_name(captured, seen, order, records["stream"].to_numpy())


def _by_name(
    captured: list[str], seen: list[str], order: Ints, stream: Ints
) -> tuple[Ints | None, str]:
    """The k-th of a name is the k-th that was captured; refused where a stream then runs back."""
    places: defaultdict[str, list[int]] = defaultdict(list)
    for number in range(len(captured) - 1, -1, -1):
        places[captured[number]].append(number)
    found = np.full(len(seen), -1, np.int64)
    for row in order:
        if not places[seen[row]]:
            return None, f"streams ran side by side, and {UNLIKE}"
        found[row] = places[seen[row]].pop()
    for own in np.unique(stream):
        if (np.diff(found[order[stream[order] == own]]) < 0).any():
            return None, "streams ran side by side, and names do not tell them apart"
    return found, ""


def _alike(captured: list[str], seen: list[str]) -> bool:
    """Whether the names agree, in order; a kernel without a name agrees with any."""
    return all(a in ("", b) for a, b in zip(captured, seen, strict=True))


def _key(kind: str, name: str) -> str:
    """What a node is recognised by: some copies and sets show as kernels of these names."""
    for other in ("memcpy", "memset"):
        if kind == other or name.startswith(other):
            return other
    return name
