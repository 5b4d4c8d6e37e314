"""Who waited for whom: a square of ranks, the longer the darker."""

from __future__ import annotations

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from fapool.analysis.steps.causes import Causes
from fapool.figures.style import blank, head, rank_name, short

CELL_IN = 0.45


def waited(why: Causes, label: str) -> list[Figure]:
    """The matrix of a run; none where nobody waited."""
    if why.stragglers.empty:
        return []
    title = f"{label}: who waited for whom, {why.kind} steps"
    return [waits_matrix(why.stragglers, why.ranks, title=title)]


def without_rows(why: Causes) -> list[dict[str, str]]:
    """Phase, ms on the critical path, ms of a step without it and the share saved, in print."""
    if why.critical is None:
        return []
    on_path = why.critical.path.groupby("phase")["ms"].sum()
    return [
        {
            "phase": row.phase,
            "path": f"{on_path.get(row.phase, 0.0):.3f}",
            "ms": f"{row.ms:.3f}",
            "saved": f"{row.saved_ms / why.critical.wall_ms:.1%}",
        }
        for row in why.critical.without.itertuples()
        if row.saved_ms > 0 or row.phase in on_path
    ]


def waits_matrix(stragglers: pd.DataFrame, ranks: pd.DataFrame, *, title: str) -> Figure:
    """From `analysis.steps.stragglers.stragglers`, ms per step; `ranks` has rank and role of all.

    The number stands in every cell, so that the figure needs no colour.
    """
    order = ranks["rank"].tolist()
    sums = stragglers.groupby(["rank", "awaited"])["ms"].sum().unstack(fill_value=0.0)
    square = sums.reindex(index=order, columns=order, fill_value=0.0).fillna(0.0)
    figure, (axes,) = blank(height_in=1.6 + CELL_IN * len(order))
    names = [rank_name(rank, role) for rank, role in zip(order, ranks["role"], strict=True)]
    sns.heatmap(
        square,
        ax=axes,
        cmap="Greys",
        vmin=0,
        vmax=max(square.to_numpy().max(initial=0), 1e-9),
        annot=square.map(lambda ms: short(ms) if ms else "").to_numpy(),
        fmt="",
        linewidths=0.6,
        linecolor="white",
        cbar=False,
        xticklabels=[str(rank) for rank in order],
        yticklabels=names,
    )
    axes.grid(False)
    axes.set_xlabel("for rank; ms per step")
    axes.set_ylabel("")
    axes.tick_params(axis="y", rotation=0)
    head(axes, title)
    return figure
