"""One look for all figures: a colour per category and per owner, fixed, and a blank figure.

The lightness of the five categories differs by 15 L* or more, and they stay apart for the three
kinds of colour blindness: they can be told apart in grey print too.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import matplotlib as mpl
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from fapool.phases import Category

COLOURS: Mapping[str, str] = MappingProxyType(
    {
        Category.COMPUTE.value: "#12436d",
        Category.COMMUNICATION.value: "#f4b53f",
        Category.SYNCHRONIZATION.value: "#b0402c",
        Category.MANAGEMENT.value: "#46a294",
        Category.IDLE.value: "#e4e7ea",
    }
)
"""Category -> hex colour, also for the live panels."""

OWNER_COLOURS: Mapping[str, str] = MappingProxyType(
    {
        "weights": "#4a3763",
        "KV, used": "#2f7f9f",
        "KV, reserved": "#a9cfdf",
        "activations": "#d98a52",
        "buffers": "#8c8c8c",
    }
)
"""Part of memory, as it is drawn -> hex colour."""

WIDTH_IN = 8.5
HATCH = "////"
_RC = sns.axes_style("ticks") | {
    "figure.dpi": 100,
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "x",
    "axes.axisbelow": True,
    "grid.color": "#d9dce0",
    "grid.linewidth": 0.6,
    "hatch.linewidth": 0.6,
}


OWNER_HATCHES: Mapping[str, str] = MappingProxyType(
    {"weights": "", "KV, used": "///", "KV, reserved": "", "activations": "...", "buffers": "xxx"}
)
"""Part of memory -> hatch: neighbours in a stack differ in print without colours, too."""


def blank(*, height_in: float, columns: int = 1, rows: int = 1) -> tuple[Figure, list[Axes]]:
    """An empty figure of notebook width with `rows` x `columns` axes, row by row, in our style."""
    with mpl.rc_context(_RC):
        figure = Figure(figsize=(WIDTH_IN, height_in), layout="constrained")
        number = rows * columns
        axes = [figure.add_subplot(rows, columns, index + 1) for index in range(number)]
    return figure, axes


def head(axes: Axes, title: str) -> None:
    """The title of one axes."""
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold")


def legend_below(figure: Figure, handles: list[Patch], *, columns: int) -> None:
    """One legend under the axes, where it covers nothing."""
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=columns,
        frameon=False,
        fontsize=9,
        handlelength=1.3,
        columnspacing=1.5,
    )


def short(value: float) -> str:
    """A number as it stands beside a bar: four digits, never an exponent in our range."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def rank_name(rank: int, role: str) -> str:
    """What a rank is called on an axis."""
    return f"rank {rank} ({role})"
