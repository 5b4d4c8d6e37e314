"""Which steps are meant: of one kind, of the kind that a run is about, of the rank that counts."""

from __future__ import annotations

import pandas as pd


def of_kind(rows: pd.DataFrame, kind: str | None) -> pd.DataFrame:
    """Rows of one kind of step; all of them for None."""
    return rows if kind is None else rows[rows["kind"] == kind]


def usual(*runs: pd.DataFrame) -> str:
    """Decode if the steps of every run have some; prefill where outputs are of one token."""
    return "decode" if all((steps["kind"] == "decode").any() for steps in runs) else "prefill"


def decode_on_rank_0(steps: pd.DataFrame) -> pd.DataFrame:
    """The decode steps that metrics are made of: those of rank 0, by its own borders."""
    return steps[(steps["rank"] == 0) & (steps["kind"] == "decode")]
