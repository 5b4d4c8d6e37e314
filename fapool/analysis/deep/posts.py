"""Which exchange a receive belongs to that was posted ahead: the one that is waited for next.

A receive's kernel is launched where it is posted, by a span that names no exchange; the wait, which
does, only has the stream wait for it and launches nothing. The two bear the same layer and
micro-batch, and waits follow in the order of their posts.

A post inside a send is of one kernel that does both: it is of the exchanges of both.
"""

from __future__ import annotations

from collections import defaultdict, deque

import numpy as np
import pandas as pd

from fapool.phases import Category, Phase


def adopted(spans: pd.DataFrame, kernels: pd.DataFrame) -> pd.DataFrame:
    """`spans` with channel and sequence of its wait in every post that one is found for.

    Channels of a send around it come first; the two have one sequence, or the post is left to the
    wait alone.
    """
    is_post = (spans["phase"] == Phase.POST).to_numpy(bool)
    if not is_post.any():
        return spans
    idle = ~np.isin(np.arange(len(spans)), kernels["span"].to_numpy())
    talks = (spans["category"] == Category.COMMUNICATION) & (spans["channel"] != "")
    waits = (talks & ~spans["phase"].str.startswith("send_")).to_numpy(bool) & idle
    keys = list(zip(spans["layer"], spans["micro_batch"], strict=True))
    waiting: defaultdict[tuple, deque[int]] = defaultdict(deque)
    pairs = []
    for row in np.flatnonzero(is_post | waits).tolist():
        if is_post[row]:
            waiting[keys[row]].append(row)
        elif waiting[keys[row]]:
            pairs.append((waiting[keys[row]].popleft(), row))
    posts, found = np.array(pairs, np.int64).reshape(-1, 2).T
    spans = spans.copy()
    for name in ("channel", "sequence"):
        values = spans[name].to_numpy().copy()
        values[posts] = values[found]
        spans[name] = values
    for post, send in _around(spans, posts).items():
        if spans["sequence"].iat[post] == spans["sequence"].iat[send]:
            both = f"{spans['channel'].iat[send]},{spans['channel'].iat[post]}"
            spans.iloc[post, spans.columns.get_loc("channel")] = both
    return spans


def _around(spans: pd.DataFrame, posts: np.ndarray) -> dict[int, int]:
    """Of posts that the host opened inside a send to somebody: post -> send."""
    sends = (spans["phase"].str.startswith("send_") & (spans["channel"] != "")).to_numpy(bool)
    rows = np.flatnonzero(sends)
    start, end = (spans[name].to_numpy(np.int64) for name in ("start_ns", "end_ns"))
    rows = rows[np.argsort(start[rows], kind="stable")]
    place = np.searchsorted(start[rows], start[posts], "right") - 1
    inside = place >= 0
    inside[inside] = end[posts[inside]] <= end[rows[place[inside]]]
    inside &= end[posts] > start[posts]  # spans of replays all have the time of their launch
    return dict(zip(posts[inside].tolist(), rows[place[inside]].tolist(), strict=True))
