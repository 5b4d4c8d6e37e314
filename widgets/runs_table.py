"""A table whose rows can be ticked. Knows rows of text, not runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import anywidget
import traitlets

_STATIC = Path(__file__).parent / "static"


class RunsTable(anywidget.AnyWidget):
    """Rows of text under `columns`; `selected` holds the keys of those ticked, in row order.

    Args:
        columns: headings.
        figures: those of them that hold numbers, set to the right.
    """

    _esm = _STATIC / "runs.js"
    _css = _STATIC / "runs.css"

    figures = traitlets.List(traitlets.Unicode()).tag(sync=True)
    columns = traitlets.List(traitlets.Unicode()).tag(sync=True)
    rows = traitlets.List(traitlets.Dict()).tag(sync=True)
    selected = traitlets.List(traitlets.Unicode()).tag(sync=True)

    def __init__(self, columns: Sequence[str], *, figures: Sequence[str] = ()) -> None:
        super().__init__(columns=list(columns), figures=list(figures))

    def fill(self, rows: Sequence[tuple[str, Sequence[str]]]) -> None:
        """Replace all rows, each (key, cells); ticks of rows that are still there stay."""
        keys = [key for key, _ in rows]
        self.rows = [{"key": key, "cells": list(cells)} for key, cells in rows]
        self.selected = [key for key in self.selected if key in keys]
