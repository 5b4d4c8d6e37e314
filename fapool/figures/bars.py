"""Stacked bars per rank: where the time of a step goes, and what the memory holds."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from fapool.figures.memory import memory_parts, unit_of
from fapool.figures.style import (
    COLOURS,
    HATCH,
    OWNER_COLOURS,
    blank,
    head,
    legend_below,
    rank_name,
    short,
)
from fapool.phases import Category, Owner

BAR = 0.62


def breakdown_per_rank(by_rank: pd.DataFrame, *, title: str, kind: str = "decode") -> Figure:
    """Stacked bars in ms per step, one a rank, from `analysis.summary.by_rank`.

    A hatched bar beneath each is the communication that ran under computation: it is inside the
    computation above it, not added to it.
    """
    figure, (axes,) = blank(height_in=1.7 + 0.52 * len(by_rank))
    left = pd.Series(0.0, by_rank.index)
    for category in Category:
        width = by_rank[f"{category}_ms"]
        axes.barh(
            by_rank.index, width, BAR, left, color=COLOURS[category], edgecolor="white", lw=0.6
        )
        left += width
    under = [row + BAR / 2 + 0.09 for row in by_rank.index]
    axes.barh(under, by_rank["hidden_ms"], 0.14, color="white", edgecolor="#9a6a00", hatch=HATCH)
    for row, wall in left.items():
        axes.text(wall, row, f" {short(wall)}", va="center", fontsize=9)
    _name_rows(axes, by_rank)
    axes.set_xlim(0, 1.07 * max(left.max(), 1e-9))
    axes.set_xlabel(f"ms per {kind} step, mean over steps")
    head(axes, title)
    handles = [Patch(color=COLOURS[category], label=category.value) for category in Category]
    hidden = Patch(
        facecolor="white", edgecolor="#9a6a00", hatch=HATCH, label="hidden communication"
    )
    legend_below(figure, [*handles, hidden], columns=6)
    return figure


def memory_per_rank(peak: pd.DataFrame, *, title: str) -> Figure:
    """Stacked bars of what a rank's memory held at its peak, from `analysis.memory.peak`.

    The number at the end of a bar is what was in use on the whole device (on a CPU: by the
    process), which holds more than our parts.
    """
    table = peak.pivot(index=["rank", "role"], columns="owner", values="bytes").reset_index()
    table = table.reindex(columns=["rank", "role", *(owner.value for owner in Owner)]).fillna(0)
    parts = memory_parts(table)
    scale, unit = unit_of(parts.sum(axis=1).max())
    figure, (axes,) = blank(height_in=1.6 + 0.45 * len(table))
    left = pd.Series(0.0, table.index)
    for name, colour in OWNER_COLOURS.items():
        width = parts[name] / scale
        axes.barh(table.index, width, BAR, left, color=colour, edgecolor="white", lw=0.6)
        left += width
    for row, end in left.items():
        in_use = table.loc[row, Owner.DEVICE.value] / scale
        text = f" {short(end)}" + (f" of {short(in_use)}" if in_use else "")
        axes.text(end, row, text, va="center", fontsize=9)
    _name_rows(axes, table)
    axes.set_xlim(0, 1.3 * max(left.max(), 1e-9))
    axes.set_xlabel(f"{unit} at the peak (and all that was in use on the device)")
    head(axes, title)
    handles = [Patch(color=colour, label=name) for name, colour in OWNER_COLOURS.items()]
    legend_below(figure, handles, columns=len(handles))
    return figure


def _name_rows(axes: Axes, table: pd.DataFrame) -> None:
    names = [rank_name(rank, role) for rank, role in zip(table["rank"], table["role"], strict=True)]
    axes.set_yticks(table.index, names)
    axes.set_ylim(len(table) - 0.4, -0.6)
