"""Runs side by side: TPOT of their requests, and the main metrics with their 95 % intervals."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fapool.analysis.statistics.units import REPEAT
from fapool.figures.style import blank, head, short

PANELS = {
    "tpot_mean": ("TPOT, mean", "ms"),
    "tps": ("TPS", "tokens/s"),
    "tps_per_charged_gpu": ("TPS per charged GPU", "tokens/s/GPU"),
}
ROOM = 1.35  # of the longest bar: what the value beside it needs
FILL, EDGE = "#8fa8bf", "#2b3a48"


def tpot_distribution(requests: Mapping[str, pd.DataFrame], *, title: str) -> Figure:
    """TPOT of every request as a point; over them the median, quartiles and 5th to 95th percentile.

    `requests`: label of a run -> `analysis.metrics.per_request`.
    """
    rows = pd.concat(
        [table.assign(run=label) for label, table in requests.items()], ignore_index=True
    ).dropna(subset="tpot_ms")
    figure, (axes,) = blank(height_in=1.4 + 0.5 * len(requests))
    order = list(requests)
    # spread by the golden ratio, not by chance: the same table gives the same figure
    aside = (rows.groupby("run").cumcount() * 0.618 % 1 - 0.5) * 0.5
    height = pd.Categorical(rows["run"], order).codes + aside
    axes.scatter(rows["tpot_ms"], height, s=18, color=FILL)
    cuts = [0.05, 0.25, 0.5, 0.75, 0.95]
    marks = rows.groupby("run")["tpot_ms"].quantile(cuts).unstack().reindex(order, columns=cuts)
    places = range(len(order))
    axes.hlines(places, marks[0.05], marks[0.95], color=EDGE, lw=1.2, zorder=3)
    axes.hlines(places, marks[0.25], marks[0.75], color=EDGE, lw=4, zorder=3)
    axes.plot(marks[0.5], places, "D", color="white", mec=EDGE, ms=6, zorder=4)
    axes.margins(x=0.05)
    axes.set_xlim(left=0)
    axes.set_yticks(places, order)
    axes.set_ylim(len(order) - 0.5, -0.5)
    xlabel = "TPOT of a request, ms (diamond: median; lines: quartiles, 5th to 95th percentile)"
    axes.set(xlabel=xlabel, ylabel="")
    head(axes, title)
    return figure


def comparison(spreads: pd.DataFrame, *, title: str, device: str = "GPU") -> Figure:
    """Bars per run for TPOT, TPS and TPS per charged GPU, from `analysis.comparison.table.spreads`.

    A line is a 95 % interval, over repeats or of what varies within the run, as its axis says; none
    where there are too few repeats for one. `device` is what a GPU
    is called where the ranks are none. A value stands past the end of its bar and line, so that
    neither strikes through it.
    """
    labels = list(spreads["label"].unique())
    figure, panels = blank(height_in=1.5 + 0.42 * len(labels), columns=len(PANELS))
    for axes, (metric, (name, unit)) in zip(panels, PANELS.items(), strict=True):
        own = spreads[spreads["metric"] == metric].set_index("label").loc[labels]
        sns.barplot(x=own["value"], y=labels, order=labels, color=FILL, edgecolor=EDGE, ax=axes)
        axes.hlines(range(len(labels)), own["low"], own["high"], color=EDGE, lw=2)
        ends = own[["value", "high"]].max(axis=1).fillna(0)
        axes.set_xlim(0, ROOM * max(ends.max(), 1e-9))
        for row, (value, end) in enumerate(zip(own["value"], ends, strict=True)):
            text = "none" if pd.isna(value) else short(value)
            axes.annotate(
                text, (end, row), (4, 0), textcoords="offset points", va="center", fontsize=9
            )
        axes.set(xlabel=f"{unit.replace('GPU', device)}{_lines(own['units'])}", ylabel="")
        axes.xaxis.set_major_locator(MaxNLocator(3))  # more would run into each other
        axes.xaxis.set_major_formatter(lambda value, _: short(value))
        head(axes, name.replace("GPU", device))
        axes.xaxis.label.set_fontsize(8.5)
        if axes is not panels[0]:
            axes.set_yticklabels([])
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    return figure


def _lines(units: pd.Series) -> str:
    """What the lines of a panel are, for its axis; nothing where there are none."""
    known = {unit == REPEAT for unit in units if unit}
    if not known:
        return ""
    over = {True: "over repeats", False: "within a run"}
    return f" (line: 95 %, {' or '.join(over[one] for one in sorted(known, reverse=True))})"
