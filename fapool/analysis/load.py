"""A run's tables in memory, checked: what all of the analysis takes."""

from __future__ import annotations

from dataclasses import dataclass, field

import pandas as pd

from fapool.errors import StoreError
from fapool.phases import ENERGY, KV
from fapool.spec import RunSpec
from fapool.store import Run

STEP_KEYS = ["repeat", "rank", "step"]


@dataclass(frozen=True, kw_only=True)
class Tables:
    """One run's tables; columns and units as in `fapool.phases`.

    Invariants: every span and step ends no earlier than it starts; a rank's steps of one repeat
    are sorted and share their borders; the tokens in `kv` at a step sum to its `kv_tokens`.
    """

    name: str
    spec: RunSpec
    events: pd.DataFrame
    steps: pd.DataFrame
    requests: pd.DataFrame
    memory: pd.DataFrame
    kv: pd.DataFrame = field(default_factory=lambda: KV.empty_table().to_pandas())
    energy: pd.DataFrame = field(default_factory=lambda: ENERGY.empty_table().to_pandas())


def load(run: Run) -> Tables:
    """Read all tables of a run and check them.

    Raises:
        StoreError: a table is missing, a span or step ends before it starts, or the steps of a
            rank leave a gap, overlap or come twice, or there are no steps at all, or none of
            a rank that has spans, or a step held other tokens than its requests did; names the
            first such row.
    """
    events = run.table("events")
    steps = run.table("steps").sort_values(STEP_KEYS, ignore_index=True)
    if steps.empty:
        raise StoreError(f"{run.name} has no steps: nothing was measured ({run.status.state})")
    _check_direction(run.name, "events", events)
    _check_direction(run.name, "steps", steps)
    _check_borders(run.name, steps)
    _check_homes(run.name, events, steps)
    kv = run.table("kv")
    _check_tokens(run.name, kv, steps)
    return Tables(
        name=run.name,
        spec=run.spec,
        events=events,
        steps=steps,
        requests=run.table("requests"),
        memory=run.table("memory"),
        kv=kv,
        energy=run.table("energy"),
    )


def _check_direction(name: str, table: str, rows: pd.DataFrame) -> None:
    wrong = rows[rows["end_ns"] < rows["start_ns"]]
    if len(wrong):
        raise StoreError(f"{name}: {table} hold a row that ends before it starts: {_tell(wrong)}")


def _check_borders(name: str, steps: pd.DataFrame) -> None:
    before = steps.shift(1)
    same = (steps["repeat"] == before["repeat"]) & (steps["rank"] == before["rank"])
    # int64 throughout: shift() turns integers to floats, which lose nanoseconds
    started = steps["start_ns"].to_numpy()[1:]
    ended = steps["end_ns"].to_numpy()[:-1]
    apart = same.to_numpy().copy()
    apart[1:] &= started != ended
    apart[:1] = False
    if apart.any():
        raise StoreError(
            f"{name}: a step does not begin where the last ended: {_tell(steps[apart])}"
        )


def _check_homes(name: str, events: pd.DataFrame, steps: pd.DataFrame) -> None:
    lanes = pd.MultiIndex.from_frame(steps[["repeat", "rank"]]).unique()
    homeless = ~pd.MultiIndex.from_frame(events[["repeat", "rank"]]).isin(lanes)
    if homeless.any():
        raise StoreError(f"{name}: spans of a rank that has no steps: {_tell(events[homeless])}")


def _check_tokens(name: str, kv: pd.DataFrame, steps: pd.DataFrame) -> None:
    sums = kv.groupby(STEP_KEYS, as_index=False)["tokens"].sum()
    both = sums.merge(steps[[*STEP_KEYS, "kv_tokens"]], how="left", on=STEP_KEYS)
    apart = both[both["tokens"] != both["kv_tokens"]]
    if len(apart):
        raise StoreError(f"{name}: tokens in kv are not those of their step: {_tell(apart)}")


def _tell(rows: pd.DataFrame) -> str:
    first = rows.iloc[0]
    return ", ".join(f"{key} {first[key]}" for key in STEP_KEYS) + f" ({len(rows)} such rows)"
