"""Units of two runs in pairs, where both took the same steps: what grows in both counts in none."""

from __future__ import annotations

import numpy as np
import pandas as pd

from fapool.analysis.load import Tables
from fapool.analysis.statistics import sample
from fapool.analysis.statistics.sample import Floats
from fapool.analysis.statistics.units import (
    OF_TPOT,
    Blocks,
    blocks_of,
    decode_steps,
    step_weights,
)
from fapool.analysis.study import Study

WORK = ["repeat", "step", "kind", "requests", "tokens"]


def same_work(a: Tables, b: Tables) -> bool:
    """Whether both took the same steps with the same requests, so that steps come in pairs."""
    own = [tables.steps[tables.steps["rank"] == 0][WORK] for tables in (a, b)]
    return own[0].reset_index(drop=True).equals(own[1].reset_index(drop=True))


def differences(a: Study, b: Study) -> dict[str, tuple[Floats, str]]:
    """Metric -> (differences b - a by blocks of steps, what they are); empty where none pair.

    Of TPOT, whose plain mean is the difference of the runs' own values, and of the decode step,
    whose differences are those of blocks' medians. Where both runs have repeats enough, these are
    better units: nothing is paired.
    """
    repeats = [study.tables.steps["repeat"].nunique() for study in (a, b)]
    if min(repeats) >= sample.LEAST_UNITS or not same_work(a.tables, b.tables):
        return {}
    return _decode_step(a, b) | _tpot(a, b)


def _decode_step(a: Study, b: Study) -> dict[str, tuple[Floats, str]]:
    sides = [decode_steps(study.tables) for study in (a, b)]
    if sides[0].empty or not _same_steps(*sides):
        return {}
    first, second = (side["ms"].to_numpy() for side in sides)
    blocks = blocks_of(sides[0], second - first)
    medians = [pd.Series(ms).groupby(blocks.number).median().to_numpy() for ms in (first, second)]
    return {"decode_step": (medians[1] - medians[0], _words(blocks))}


def _same_steps(first: pd.DataFrame, second: pd.DataFrame) -> bool:
    """Whether the same steps were left undisturbed in both."""
    keys = [rows[["repeat", "step"]].reset_index(drop=True) for rows in (first, second)]
    return keys[0].equals(keys[1])


def _tpot(a: Study, b: Study) -> dict[str, tuple[Floats, str]]:
    (steps, weights), (others, other_weights) = (step_weights(study.tables) for study in (a, b))
    if not len(weights) or len(weights) != len(other_weights):
        return {}
    if not np.allclose(weights, other_weights):
        return {}
    first, second = (_ms(rows) for rows in (steps, others))
    blocks = blocks_of(steps, second - first)
    found = {}
    for name in OF_TPOT:
        values = [study.metrics[name] for study in (a, b)]
        if None not in values:
            own = first * (values[0] / (first @ weights))
            apart = second * (values[1] / (second @ weights)) - own
            apart = sample.unit_values(apart * weights, weights, blocks.number)
            found[name] = (apart * weights.sum(), _words(blocks))
    return found


def _ms(steps: pd.DataFrame) -> Floats:
    return ((steps["end_ns"] - steps["start_ns"]) / 1e6).to_numpy()


def _words(blocks: Blocks) -> str:
    return f"pairs of {blocks.words('s')}"
