"""Which steps had spans, where only some had, and what the others took.

Decode steps that come from CUDA graphs have spans once in so many; recording makes them longer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fapool.analysis.kinds import decode_on_rank_0
from fapool.phases import NO_SPANS

WITHOUT = "no spans were recorded (capture.spans: false): no breakdown"


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Decode steps on rank 0, with spans (sampled) and without: how many, and their median ms."""

    sampled: int
    others: int
    sampled_ms: float
    others_ms: float

    @property
    def added_ms(self) -> float:
        """What sampling adds to a step, by medians."""
        return self.sampled_ms - self.others_ms

    @property
    def share(self) -> float:
        """What sampling adds to the decode steps, of all that they take; by medians, so about."""
        added = self.sampled * self.added_ms
        return added / (added + (self.sampled + self.others) * self.others_ms)

    @property
    def words(self) -> str:
        """`1 in 16 decode steps sampled; median of sampled steps 0.610 ms, of others 0.520 ms`."""
        every = round((self.sampled + self.others) / self.sampled)
        return (
            f"1 in {every} decode steps sampled; median of sampled steps "
            f"{self.sampled_ms:#.3g} ms, of others {self.others_ms:#.3g} ms"
        )


def any_spans(steps: pd.DataFrame) -> bool:
    """Whether any step had spans; without them all time would stand as idle."""
    return not (steps["method"] == NO_SPANS).all()


def recorded(steps: pd.DataFrame) -> NDArray[np.bool_]:
    """Rows of steps that had spans on every rank, bool [steps]; all rows where no step had any."""
    without = steps["method"] == NO_SPANS
    if without.all():
        return np.ones(len(steps), bool)
    missing = without.groupby([steps["repeat"], steps["step"]]).transform("any")
    return ~missing.to_numpy(bool)


def undisturbed(steps: pd.DataFrame) -> pd.DataFrame:
    """Decode steps on rank 0 that no rank recorded; all of them where every step was recorded."""
    without = steps["method"] == NO_SPANS
    alone = without.groupby([steps["repeat"], steps["step"]]).transform("all").to_numpy(bool)
    found = decode_on_rank_0(steps[alone])
    return decode_on_rank_0(steps) if found.empty else found


def sampling(steps: pd.DataFrame) -> Sampling | None:
    """How decode steps were sampled; None where all of them had spans, or none."""
    sampled = decode_on_rank_0(steps[recorded(steps)])
    others = decode_on_rank_0(steps).drop(sampled.index)
    if sampled.empty or others.empty:
        return None
    return Sampling(
        sampled=len(sampled),
        others=len(others),
        sampled_ms=_median_ms(sampled),
        others_ms=_median_ms(others),
    )


def _median_ms(steps: pd.DataFrame) -> float:
    return float((steps["end_ns"] - steps["start_ns"]).median()) / 1e6
