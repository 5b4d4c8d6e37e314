"""Which exchange a receive belongs to that was posted ahead: the one that is waited for next.

A receive's kernel is launched where it is posted, by a span that names no exchange; the wait, which
does, only has the stream wait for it and launches nothing. The two bear the same layer and
micro-batch, and waits follow in the order of their posts.
"""

from __future__ import annotations

from collections import defaultdict, deque

import numpy as np
import pandas as pd

from fapool.phases import Category, Phase


def adopted(spans: pd.DataFrame, kernels: pd.DataFrame) -> pd.DataFrame:
    """`spans` with channel and sequence of its wait in every post that one is found for."""
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
    return spans
