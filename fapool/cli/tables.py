"""Tables in the terminal: one look, heads that let a breakdown fit 80 columns, and JSON beside."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.table import Table

from fapool.errors import SpecError

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


def write_json(out: Path, record: Any) -> None:
    """Write what `--json` asks for.

    Raises:
        SpecError: `out` cannot be written.
    """
    data = orjson.dumps(record, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY)
    try:
        out.write_bytes(data + b"\n")
    except OSError as error:
        raise SpecError("--json", str(out), f"cannot be written: {error.strerror}") from None
