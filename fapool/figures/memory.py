"""Memory of each rank over time: a stack of its parts, and the moment when it was highest."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from fapool.figures.style import (
    OWNER_COLOURS,
    OWNER_HATCHES,
    blank,
    head,
    legend_below,
    rank_name,
    short,
)
from fapool.phases import Owner

_UNITS = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))
ROOM_FOR_PEAK = 1.35
"""Of the highest stack: the words over a peak stand above it."""


def memory_over_time(held: pd.DataFrame, *, title: str) -> Figure:
    """Stacked areas, one panel a rank on common scales, from `analysis.memory.parts_over_time`.

    A part has a colour and a hatch. A triangle marks the highest sum; beside it stand its bytes,
    step and time.
    """
    ranks = held[["rank", "role"]].drop_duplicates("rank").to_dict("records")
    parts = memory_parts(held)
    scale, unit = unit_of(parts.sum(axis=1).max())
    figure, axes = blank(height_in=1.2 + 1.15 * len(ranks), rows=len(ranks))
    top = max(parts.sum(axis=1).max() / scale, 1e-9)
    end_s = held["time_s"].max()
    for place, panel in zip(ranks, axes, strict=True):
        own = held["rank"] == place["rank"]
        _stack(panel, held.loc[own, "time_s"], parts[own] / scale)
        _mark_peak(panel, held[own], parts[own].sum(axis=1) / scale, unit)
        panel.set_ylabel(rank_name(place["rank"], place["role"]).replace(" (", "\n("), fontsize=9)
        panel.set_xlim(0, max(end_s, 1e-9))
        panel.set_ylim(0, ROOM_FOR_PEAK * top)
        panel.tick_params(labelbottom=panel is axes[-1], labelsize=8)
    axes[-1].set_xlabel(f"seconds since the first measured step; {unit} in use")
    head(axes[0], title)
    legend_below(figure, _legend(), columns=len(OWNER_COLOURS))
    return figure


def memory_parts(table: pd.DataFrame) -> pd.DataFrame:
    """Bytes as they are drawn, a column for each of `OWNER_COLOURS`; they sum to the parts."""
    used = table[Owner.KV_USED.value].clip(upper=table[Owner.KV.value])
    columns = {
        "weights": table[Owner.WEIGHTS.value],
        "KV, used": used,
        "KV, reserved": table[Owner.KV.value] - used,
        "activations": table[Owner.ACTIVATIONS.value],
        "buffers": table[Owner.BUFFERS.value],
    }
    return pd.DataFrame(columns)


def unit_of(largest: float) -> tuple[int, str]:
    """(bytes, name) of the unit in which `largest` bytes are a number of few digits."""
    return next((unit for unit in _UNITS if largest >= unit[0]), _UNITS[-1])


def _stack(panel: Axes, time_s: pd.Series, parts: pd.DataFrame) -> None:
    floor = pd.Series(0.0, parts.index)
    for name, colour in OWNER_COLOURS.items():
        ceiling = floor + parts[name]
        if (parts[name] > 0).any():
            panel.fill_between(
                time_s, floor, ceiling, step="post", facecolor=colour,
                hatch=OWNER_HATCHES[name], edgecolor="white", lw=0.3,
            )  # fmt: skip
        floor = ceiling
    panel.plot(time_s, floor, color="#1c2126", lw=0.7, drawstyle="steps-post")


def _mark_peak(panel: Axes, held: pd.DataFrame, totals: pd.Series, unit: str) -> None:
    at = totals.idxmax()
    time_s, highest = held.loc[at, "time_s"], totals[at]
    late = time_s > 0.6 * held["time_s"].max()
    panel.plot([time_s], [highest], marker="v", color="#1c2126", ms=5, clip_on=False)
    words = f"peak {short(highest)} {unit}, step {held.loc[at, 'step']}, {short(time_s)} s"
    panel.annotate(
        words, (time_s, highest), (-5 if late else 5, 4), textcoords="offset points",
        ha="right" if late else "left", fontsize=8,
    )  # fmt: skip


def _legend() -> list[Patch]:
    return [
        Patch(facecolor=colour, hatch=OWNER_HATCHES[name], edgecolor="white", label=name)
        for name, colour in OWNER_COLOURS.items()
    ]
