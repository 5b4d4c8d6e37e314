"""What changed in a step, phase by phase, with 95 % intervals."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from fapool.analysis.comparison.changes import Change, folded
from fapool.figures.style import COLOURS, blank, head, legend_below
from fapool.phases import Category, Phase

INK = "#1c2126"
LEVEL = 0.05
THICK, THIN = 0.7, 0.34
"""Heights of bars that are surely no chance, and of all others: seen in grey print, too."""
BETWEEN = "line: 95 % interval over repeats; thin: p ≥ 0.05"
DISTURBED = "line: 95 % interval of sampled steps, over repeats; thin: no p"
WITHIN = "line: 95 % interval within these runs; thin: too few repeats for a p"
TRANSFERS = {phase.value for phase in Phase if phase.category is Category.COMMUNICATION}
OTHERS = "#ffffff"  # small parts of several categories


def step_changes(change: Change, *, title: str) -> Figure:
    """A bar a phase, the largest change above, and the step's change beneath them.

    Lines are 95 % intervals. Thick: p < 0.05 (Holm over the phases); thin: may be chance, or
    nothing tells, for want of repeats.
    """
    parts = folded(change)
    names = [_name(row) for row in parts.to_dict("records")] + ["= step"]
    values = np.r_[parts["change_ms"], change.step["change_ms"]].astype(float)
    low = np.r_[parts["low_ms"], change.step["low_ms"]].astype(float)
    high = np.r_[parts["high_ms"], change.step["high_ms"]].astype(float)
    p = np.r_[parts["p"], change.step["p"]].astype(float)
    colours = [COLOURS.get(category, OTHERS) for category in parts["category"]] + [INK]
    figure, (axes,) = blank(height_in=1.5 + 0.28 * len(names))
    places = np.arange(len(names)) + np.r_[np.zeros(len(parts)), 0.4]
    height = np.where(p < LEVEL, THICK, THIN)
    axes.barh(places, values, height, color=colours, edgecolor=INK, linewidth=0.6)
    axes.hlines(places, low, high, color="white", lw=3.4, zorder=3)  # seen on dark bars, too
    axes.hlines(places, low, high, color=INK, lw=1.4, zorder=4)
    axes.axvline(0, color=INK, lw=0.8)
    axes.set_yticks(places, names)
    axes.set_ylim(places[-1] + 0.6, -0.6)
    axes.set(xlabel=f"ms per {change.noun} ({_lines(change)})", ylabel="")
    head(axes, title)
    seen = [name for name in COLOURS if name in set(parts["category"])]
    handles = [Patch(fc=COLOURS[name], ec=INK, label=name) for name in seen]
    legend_below(figure, handles, columns=len(handles))
    return figure


def _lines(change: Change) -> str:
    if change.tested:
        return BETWEEN
    return WITHIN if change.within else DISTURBED


def _name(row: dict) -> str:
    """A phase of which the wait stands apart from the transfer says which of the two it is."""
    if row["category"] == Category.SYNCHRONIZATION and row["phase"] in TRANSFERS:
        return f"{row['phase']}, waiting"
    return row["phase"] or row["category"]
