"""What of a run counts as one independent value, metric by metric.

Three repeats or more: each repeat is a unit, and its metric a value. Fewer: blocks of consecutive
decode steps stand in for TPOT and the decode step, waves (requests that are admitted together, and
share their prefill) for TTFT. These tell what varies inside the run, not what another run gives.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from fapool.analysis.load import Tables
from fapool.analysis.metrics import DEFINITIONS, UNRATED, metrics, per_request
from fapool.analysis.sampled import undisturbed
from fapool.analysis.statistics import sample
from fapool.analysis.statistics.sample import Floats, Interval, Ints
from fapool.analysis.study import Study
from fapool.analysis.wording import count

WITHOUT = UNRATED | {f"{name}_p{q}" for name in ("ttft", "tpot") for q in (90, 99)}
"""Metrics without an interval: no measurements, or decided by a few extreme requests."""

REPEAT = "repeat"
ALIKE = " (alike: perhaps too narrow)"
OF_TPOT = ("tpot_mean", "tpot_gpu", "tpot_charged_gpu")


@dataclass(frozen=True, kw_only=True)
class Units:
    """Independent values [n] of one metric, in its unit, and `whole`, the run's own value.

    The mean of the values is not the run's value where that is a median or a ratio over all.
    Tests take the values as they are: ranks would find a common shift of them, however small.
    """

    values: Floats
    whole: float
    unit: str  # REPEAT, "block of 6 decode steps", "wave"

    @property
    def interval(self) -> Interval:
        """Of the mean of the values, moved to stand about `whole`."""
        found, away = sample.interval(self.values), self.whole - float(self.values.mean())
        return replace(found, low=found.low + away, high=found.high + away)


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """`number` of each step's block, steps of a block, and whether blocks are still `alike`."""

    number: Ints
    length: int
    alike: bool

    def words(self, plural: str = "", step: str = "decode step") -> str:
        """`block of 6 decode steps`, and a warning where blocks resemble their neighbours."""
        return f"block{plural} of {count(self.length, step)}{ALIKE if self.alike else ''}"


def units(study: Study) -> dict[str, Units]:
    """Metric -> its units, of every metric that has at least three."""
    repeats = sorted(study.tables.steps["repeat"].unique())
    if len(repeats) >= sample.LEAST_UNITS:
        each = [_metrics_of(study, repeat) for repeat in repeats]
        found = {
            name: (np.array([one[name] for one in each], float), REPEAT) for name in DEFINITIONS
        }
    else:
        found = _within(study)
    kept = {}
    for name, (values, unit) in found.items():
        value = study.metrics[name]
        if name in WITHOUT or value is None or len(values) < sample.LEAST_UNITS:
            continue
        if not np.isnan(values).any():
            kept[name] = Units(values=values, whole=value, unit=unit)
    return kept


def decode_steps(tables: Tables) -> pd.DataFrame:
    """Undisturbed decode steps of rank 0 in order: the columns of `steps`, and `ms`."""
    own = undisturbed(tables.steps)
    return own.assign(ms=(own["end_ns"] - own["start_ns"]) / 1e6)


def blocks_of(steps: pd.DataFrame, ms: Floats) -> Blocks:
    """Blocks of steps by their `ms`; none reaches over the end of a repeat."""
    number, first, alike = np.zeros(len(steps), np.int64), 0, False
    for _, rows in steps.reset_index(drop=True).groupby("repeat"):
        own = sample.blocks(ms[rows.index])
        number[rows.index] = first + own
        alike |= sample.alike(ms[rows.index], own)
        first += int(own.max()) + 1
    return Blocks(number=number, length=round(len(steps) / max(1, first)), alike=alike)


def _metrics_of(study: Study, repeat: int) -> Mapping[str, float | None]:
    def own(rows: pd.DataFrame) -> pd.DataFrame:
        return rows[rows["repeat"] == repeat]

    tables, parted = study.tables, study.parted
    return metrics(
        replace(tables, steps=own(tables.steps), requests=own(tables.requests)),
        replace(parted, steps=own(parted.steps), shares=own(parted.shares)),
    )


def _within(study: Study) -> dict[str, tuple[Floats, str]]:
    """Units inside a repeat, for those metrics that are a mean over them."""
    found: dict[str, tuple[Floats, str]] = {}
    waves = per_request(study.tables).assign(wave=study.tables.requests["admitted_ns"])
    waves = waves.dropna(subset="ttft_ms")
    if len(waves):
        keys = waves.groupby(["repeat", "wave"]).ngroup()
        found["ttft_mean"] = (
            sample.unit_values(waves["ttft_ms"], np.ones(len(waves)), keys),
            "wave",
        )
    steps = decode_steps(study.tables)
    if steps.empty:
        return found
    ms = steps["ms"].to_numpy()
    blocks = blocks_of(steps, ms)
    medians = pd.Series(ms).groupby(blocks.number).median().to_numpy()
    found["decode_step"] = (medians, blocks.words())
    return found | _tpot(study)


def _tpot(study: Study) -> dict[str, tuple[Floats, str]]:
    """TPOT as a weighted mean of the steps between tokens: a step weighs what requests share it."""
    steps, weights = step_weights(study.tables)
    if not len(steps):
        return {}
    ms = ((steps["end_ns"] - steps["start_ns"]) / 1e6).to_numpy()
    blocks = blocks_of(steps, ms)
    values = sample.unit_values(ms * weights, weights, blocks.number)
    relative = values / values.mean()
    return {name: (relative * (study.metrics[name] or np.nan), blocks.words()) for name in OF_TPOT}


def scope(*units: str) -> str:
    """What 95 % intervals over `units` speak of, in words; nothing has a p but over repeats."""
    if set(units) == {REPEAT}:
        return "95 % intervals over repeats"
    one = units[0] if len(set(units)) == 1 else "blocks of steps"
    return f"95 % intervals within these runs, over {one}"


def step_weights(tables: Tables) -> tuple[pd.DataFrame, Floats]:
    """(steps between the tokens of a request, how much of the mean TPOT a ms of each is).

    TPOT of a request is the sum of the steps that end after its first token and no later than its
    last, over its tokens but the first; so the mean over requests is the sum of ms x weight. Steps
    are those of the rank that tokens come out of.
    """
    requests = tables.requests[tables.requests["output"] > 1]
    kept, weights = [], []
    for repeat, own in requests.groupby("repeat"):
        steps = _steps_of_tokens(tables.steps[tables.steps["repeat"] == repeat], own)
        ends = steps["end_ns"].to_numpy(np.int64)
        share = np.zeros(len(steps) + 1)
        gap = 1 / (own["output"].to_numpy() - 1) / len(requests)
        np.add.at(share, np.searchsorted(ends, own["first_token_ns"], side="right"), gap)
        np.add.at(share, np.searchsorted(ends, own["last_token_ns"], side="right"), -gap)
        weight = np.cumsum(share[:-1])
        used = weight > 1e-12 * gap.max()
        kept.append(steps[used])
        weights.append(weight[used])
    return (pd.concat(kept), np.concatenate(weights)) if kept else (tables.steps[:0], np.empty(0))


def _steps_of_tokens(steps: pd.DataFrame, requests: pd.DataFrame) -> pd.DataFrame:
    """Steps of the rank at whose borders tokens come out; of rank 0 where none is exact."""
    for _, own in steps.groupby("rank"):
        if requests["first_token_ns"].isin(own["end_ns"]).all():
            return own
    return steps[steps["rank"] == steps["rank"].min()]
