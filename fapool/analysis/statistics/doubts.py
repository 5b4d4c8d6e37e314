"""What a sample cannot carry, in plain sentences: too few, drifting, too spread, far outliers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from fapool.analysis.energy import may_be_off
from fapool.analysis.metrics import per_request
from fapool.analysis.sampled import Sampling
from fapool.analysis.statistics.sample import LEAST_UNITS, blocks, unit_values, variation
from fapool.analysis.statistics.units import ALIKE, Units, decode_steps, units
from fapool.analysis.study import Study
from fapool.analysis.wording import count

VARIATION_LIMIT = 0.05
"""Standard deviation over the mean; the paper's limit across runs (section 5.7)."""

DRIFT_LIMIT = 0.05
"""Of the median, from a sample's first value to its last."""

TREND = 0.01
"""p of a trend that is believed."""

LEAST_BLOCKS = 8
"""Blocks from which on a trend can be told from chance."""

FAR = 3.0
"""Quartile ranges past the quartiles: far out (Tukey 1977)."""

OUTLIERS_WORTH = 0.01
"""Share of the mean that far values must hold to be worth a word."""


ENERGY_OFF = 0.05
"""Share that energy may be off without a word."""

SAMPLING_WORTH = 0.01
"""Share of the decode steps that sampling must hold to be worth a word."""


def too_few_units(num: int, unit: str, claim: str = "an interval") -> list[str]:
    """A word if `num` units are fewer than an interval takes."""
    if num >= LEAST_UNITS:
        return []
    return [f"{count(num, unit)}: {claim} takes {LEAST_UNITS} at least"]


def too_few_for_percentile(num: int, percentile: int, of: str) -> list[str]:
    """A word if fewer than one value of `num` lies past a percentile: p99 takes 100."""
    needed = math.ceil(100 / (100 - percentile) - 1e-9)
    if num >= needed:
        return []
    return [f"p{percentile} of {count(num, of)} is little more than the largest: take {needed}"]


def drifting(values: ArrayLike, of: str) -> list[str]:
    """A word if values in the order of time go up or down, surely and by more than 5 %.

    Mann-Kendall's test over means of blocks (neighbours resemble each other, which the test takes
    for a trend), and Theil-Sen's slope for how much.
    """
    x = np.asarray(values, float)
    means = unit_values(x, np.ones(len(x)), blocks(x)) if len(x) else x
    if len(means) < LEAST_BLOCKS or not np.ptp(means):
        return []
    order = np.arange(len(means))
    if stats.kendalltau(order, means).pvalue >= TREND:
        return []
    slope = float(stats.theilslopes(means, order).slope) * (len(means) - 1)
    share = slope / abs(np.median(means))
    if abs(share) <= DRIFT_LIMIT:
        return []
    way = "longer" if share > 0 else "shorter"
    return [
        f"{of} get {abs(share):.0%} {way} from the first to the last: the mean depends on how "
        "many there are"
    ]


def spread_too_wide(values: ArrayLike, of: str, limit: float = VARIATION_LIMIT) -> list[str]:
    """A word if the standard deviation is more than `limit` of the mean."""
    cv = variation(values)
    if not cv > limit:
        return []
    return [f"{of} vary by {cv:.1%} (standard deviation over mean; limit {limit:.0%})"]


def far_out(values: ArrayLike, of: str) -> list[str]:
    """A word if values far past the quartiles hold more than 1 % of the mean."""
    x = np.asarray(values, float)
    if len(x) < LEAST_BLOCKS:
        return []
    low, median, high = np.percentile(x, (25, 50, 75))
    border = high + FAR * (high - low)
    far = x[x > border]
    if not len(far) or (far - median).sum() <= OUTLIERS_WORTH * x.sum():
        return []
    share = (far - median).sum() / x.sum()
    return [
        f"{len(far)} of {count(len(x), of)} took {_times(far.min() / median)} the median or more "
        f"and hold {share:.0%} of the mean: look at the median, too"
    ]


def too_alike(found: Iterable[Units]) -> list[str]:
    """A word if neighbouring blocks resemble each other: intervals over them are too narrow."""
    if not any(ALIKE in own.unit for own in found):
        return []
    return [
        "neighbouring blocks of steps still resemble each other: 95 % intervals over them hold "
        "their value less often than that; take more output tokens, or repeats"
    ]


def sampled_heavily(found: Sampling | None) -> list[str]:
    """A word if sampling holds more than 1 % of what the decode steps, and so tokens, take."""
    if found is None or found.share <= SAMPLING_WORTH:
        return []
    return [
        f"sampling is about {found.share:.0%} of TPOT ({found.words}): set capture.sample_every "
        "higher, or look at decode_step, which leaves the sampled out"
    ]


def energy_of_little(off: float | None) -> list[str]:
    """A word if passes are short beside a tick of the counter and what is read around them."""
    if off is None or off <= ENERGY_OFF:
        return []
    return [
        f"J per token may be off by {off:.0%}: energy is read from before a pass to after it, and "
        "NVML's counter moves every 20 to 100 ms; take more output tokens"
    ]


def _times(ratio: float) -> str:
    return f"{ratio:.1f} times"


def of_run(study: Study) -> list[str]:
    """What is to be known of a run before its numbers are believed; nothing where all is well."""
    found = []
    repeats = study.tables.steps["repeat"].nunique()
    if repeats < LEAST_UNITS:
        found.append(
            f"{count(repeats, 'repeat')}: intervals tell what varies inside the run, not what "
            f"another run gives; set repeats to {LEAST_UNITS} or more"
        )
    requests = per_request(study.tables)
    found += too_few_for_percentile(len(requests), 99, "request")
    steps = decode_steps(study.tables)
    steps = steps[steps["method"].isin(steps["method"].mode()[:1])]  # others take other times
    ms = steps["ms"].to_numpy()
    found += sampled_heavily(study.sampling)
    found += energy_of_little(may_be_off(study.tables))
    found += drifting(ms, "decode steps") + far_out(ms, "decode step")
    found += too_alike(units(study).values())
    if repeats >= LEAST_UNITS:
        found += spread_too_wide(steps.groupby("repeat")["ms"].mean(), "repeats' decode steps")
    return found


def of_runs(found: Sequence[Study]) -> list[str]:
    """The same of several runs, each sentence once, with the runs that it is true of."""
    said: dict[str, list[str]] = {}
    for study in found:
        for sentence in of_run(study):
            said.setdefault(sentence, []).append(study.label)
    return [
        f"{'all runs' if len(labels) == len(found) > 1 else ', '.join(labels)}: {sentence}"
        for sentence, labels in said.items()
    ]
