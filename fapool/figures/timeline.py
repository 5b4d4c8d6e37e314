"""One step as it ran: a row a rank, a bar a span, coloured by category."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from fapool.figures.style import COLOURS, blank, head, legend_below, rank_name
from fapool.phases import Category, Phase

DARK = (Category.COMPUTE, Category.SYNCHRONIZATION)
ROOM_PER_LETTER = 0.0085  # of the axis: what a letter of a label needs

CROWD = 150  # spans of a rank past which their borders would hide them


STRIP = 0.09  # height of the critical path beneath a rank's row


def step_timeline(
    spans: pd.DataFrame, *, title: str, critical: pd.DataFrame | None = None
) -> Figure:
    """Spans of one step from `analysis.steps.timeline.one_step`; the legend lists the phases seen.

    `critical` (of `critical_in`, beside it) is a black strip beneath the ranks that it is on.

    Drawn from the lowest priority to the highest, so that computation covers what it hides.
    """
    ranks = spans[["rank", "role"]].drop_duplicates("rank").reset_index(drop=True)
    row_of = dict(zip(ranks["rank"], ranks.index, strict=True))
    figure, (axes,) = blank(height_in=2.1 + 0.5 * len(ranks))
    line = 0.4 if len(spans) < CROWD * len(ranks) else 0.0
    for category in reversed(Category):
        own = spans[spans["category"] == category]
        rows = own["rank"].map(row_of)
        width = own["end_us"] - own["start_us"]
        colour = COLOURS[category]
        axes.barh(rows, width, 0.7, own["start_us"], color=colour, edgecolor="white", lw=line)
    if critical is not None:
        rows = critical["rank"].map(row_of) + 0.35 + STRIP
        width = critical["end_us"] - critical["start_us"]
        axes.barh(rows, width, STRIP, critical["start_us"], color="black", lw=0)
    length = max(spans["end_us"].max() if len(spans) else 0, 1e-9)
    _label(axes, spans, row_of, length)
    names = [rank_name(rank, role) for rank, role in ranks.itertuples(index=False)]
    axes.set_yticks(ranks.index, names)
    axes.set_ylim(max(len(ranks), 1) - 0.5, -0.5)
    axes.set_xlim(0, length)
    unit = "µs"
    if length >= 10_000:
        unit = "ms"
        axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1e3:g}")
    axes.set_xlabel(f"{unit} since the first rank began the step")
    head(axes, title)
    strip = [] if critical is None else [Patch(color="black", label="critical path")]
    legend_below(figure, _legend(spans) + strip, columns=1)
    return figure


def _label(axes: Axes, spans: pd.DataFrame, row_of: dict[int, int], length: float) -> None:
    """Name the spans that have room where nothing lies on top of them (see above).

    A host that waits for its own device comes after what else it waits for, as in the breakdown.
    """
    order = spans["category"].map({category.value: i for i, category in enumerate(Category)})
    order = order.astype(float) + (spans["phase"] == Phase.DEVICE_SYNC) * 0.5
    above: dict[int, list[tuple[float, float]]] = {rank: [] for rank in row_of}
    for span in spans.iloc[order.argsort(kind="stable")].itertuples():
        room = ROOM_PER_LETTER * length * (len(span.phase) + 1)
        free = span.start_us, span.end_us
        if free[1] - free[0] >= room:
            free = _longest_free(*free, above[span.rank])
        above[span.rank].append((span.start_us, span.end_us))
        if free[1] - free[0] < room:
            continue
        axes.text(
            sum(free) / 2,
            row_of[span.rank],
            span.phase,
            ha="center",
            va="center",
            fontsize=7.5,
            color="white" if span.category in DARK else "black",
        )


def _longest_free(
    start: float, end: float, above: list[tuple[float, float]]
) -> tuple[float, float]:
    """The longest piece of [start, end) that no interval of `above` covers."""
    longest, reach = (start, start), start
    for first, last in [*sorted(above), (end, end)]:
        until = min(first, end)
        if until - reach > longest[1] - longest[0]:
            longest = reach, until
        reach = max(reach, last)
    return longest


def _legend(spans: pd.DataFrame) -> list[Patch]:
    handles = []
    for category in Category:
        phases = spans.loc[spans["category"] == category, "phase"].unique()
        if len(phases):
            label = f"{category.value}: {', '.join(phases)}"
            handles.append(Patch(color=COLOURS[category], label=label))
    return handles
