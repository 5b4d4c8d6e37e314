"""Finished matplotlib figures as widgets. Never pyplot: figures are made on other threads."""

from __future__ import annotations

from collections.abc import Iterable

import ipywidgets
from matplotlib.figure import Figure

from fapool.figures.render import png
from widgets.panel import build

DPI = 160


def figure_image(figure: Figure) -> ipywidgets.Image:
    """A PNG that shrinks with the panel but never grows past the figure's own size."""
    image = build(ipywidgets.Image, value=png(figure, dpi=DPI), format="png")
    image.layout.width = "49%"
    image.layout.min_width = "440px"
    image.layout.max_width = f"{figure.get_size_inches()[0] * 100:.0f}px"
    return image


def in_rows(parts: Iterable[ipywidgets.Widget]) -> ipywidgets.Box:
    """Widgets side by side where there is room, else below each other."""
    box = build(ipywidgets.Box, children=list(parts))
    box.layout.flex_flow, box.layout.align_items = "row wrap", "flex-start"
    box.layout.grid_gap = "8px 0"
    box.layout.justify_content = "space-between"
    return box
