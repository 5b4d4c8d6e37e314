"""Kernels of replays that no list of a graph's nodes tells apart, and what is made of them."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fapool.analysis.deep.attribution import NO_GRAPH, UNTOLD
from fapool.phases import Category
from fapool.traces.graphs import graphs_name


def of_lost_graphs(kernels: pd.DataFrame) -> NDArray[np.bool_]:
    """Which kernels are of a replay whose spans are not known; `kernels` has why. [kernels]"""
    reasons = [why for why in kernels["why"].unique() if why.startswith((NO_GRAPH, UNTOLD))]
    return kernels["why"].isin(reasons).to_numpy(bool)


def said_of(kernels: pd.DataFrame) -> list[str]:
    """A sentence for each rank that has such kernels; columns as of `Deep.kernels`."""
    by_rank = kernels[of_lost_graphs(kernels)].groupby("rank")
    return [_said(rank, own, kernels[kernels["rank"] == rank]) for rank, own in by_rank]


def _said(rank: int, lost: pd.DataFrame, every: pd.DataFrame) -> str:
    reason = f"there is no list of their nodes in {graphs_name(rank)} beside its trace"
    if (lost["why"] != NO_GRAPH).all():
        reason = "; ".join(sorted(lost["why"].unique()))
    talks = lost.loc[lost["category"] == Category.COMMUNICATION, "name"].value_counts()
    named = ", ".join(f"{count:,} × {name}" for name, count in talks.items()) or "none"
    ms = [(rows["end_ns"] - rows["start_ns"]).sum() / 1e6 for rows in (lost, every)]
    return (
        f"rank {rank}: {len(lost):,} of {len(every):,} kernels, {ms[0]:.3f} of {ms[1]:.3f} ms, are "
        f"of graphs that are not known ({reason}). They have no span and count by their names: "
        f"{named} as communication, waits included, all others as computation"
    )
