"""Tables in the terminal: one look, and heads that let a breakdown fit 80 columns."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

NARROW = {
    "communication": "communi-\ncation",
    "synchronization": "synchro-\nnization",
    "management": "manage-\nment",
}


def titled(title: str, *, collapse_padding: bool = True) -> Table:
    """An empty table under a title."""
    return Table(
        title=title,
        box=SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=collapse_padding,
        title_justify="left",
    )


def add_parts(table: Table, parts: Sequence[str]) -> None:
    """A column for each part of a step (`compute_ns`), and one for what they sum to."""
    for part in parts:
        name = part.removesuffix("_ns")
        table.add_column(NARROW.get(name, name), justify="right")
    table.add_column("= wall", justify="right")
