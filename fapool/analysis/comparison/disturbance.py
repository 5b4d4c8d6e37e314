"""What sampling added to the steps that are compared, where that is not small against the change.

Phases are known of sampled steps alone; what sampling adds to these may differ from run to run, and
outweigh or turn round what changed in the steps that make up a run.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from fapool.analysis.sampled import Sampling

WORTH = 0.1
"""Of the step's change: what sampling may add to a step of either run without a word."""

SIDES = ("A", "B")


def disturbance(step: pd.Series, samplings: tuple[Sampling | None, Sampling | None]) -> str:
    """A warning in words; empty where sampling adds little, or neither run was sampled.

    `step`: a_ms, b_ms and change_ms of sampled steps. What sampling adds and what the other steps
    took are medians on rank 0.
    """
    added = {side: own.added_ms for side, own in zip(SIDES, samplings, strict=True) if own}
    largest, change = max(map(abs, added.values()), default=0.0), abs(step["change_ms"])
    if largest <= WORTH * change:
        return ""
    said = " and ".join(
        f"{ms:.2g} ms to {'one' if number else 'a step'} of {side}"
        for number, (side, ms) in enumerate(added.items())
    )
    share = "more than the change" if largest > change else f"{largest / change:.0%} of the change"
    return (
        f"sampling adds {said}, {share}: the changes of phases are of sampled steps, without p"
        f"{_others(step, samplings)}"
    )


def _others(step: pd.Series, samplings: tuple[Sampling | None, Sampling | None]) -> str:
    if None in samplings:
        return ""
    first, second = (own.others_ms for own in samplings)
    turned = np.sign(second - first) * np.sign(step["change_ms"]) < 0
    way = ", the other way" if turned else ""
    return f"; steps that were not sampled went from {first:.3f} to {second:.3f} ms (median){way}"
