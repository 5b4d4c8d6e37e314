"""Tables in the terminal: one look, and heads that let a breakdown fit 80 columns."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
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


def mean_of(steps: pd.DataFrame, what: str = "steps") -> str:
    """`mean of 4 to 9 steps` of rows with rank and step."""
    counts = steps.groupby("rank")["step"].nunique()
    few, many = counts.min(), counts.max()
    if few != many:
        return f"mean of {few} to {many} {what}"
    return f"mean of {many} {what.removesuffix('s') if many == 1 else what}"


def add_parts(table: Table, parts: Sequence[str]) -> None:
    """A column for each part of a step (`compute_ns`), and one for what they sum to."""
    for part in parts:
        name = part.removesuffix("_ns")
        table.add_column(NARROW.get(name, name), justify="right")
    table.add_column("= wall", justify="right")
