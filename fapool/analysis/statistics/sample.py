"""One sample, told honestly: its mean with a 95 % interval, its percentiles, what varies in it.

Intervals speak of *units* that are independent of each other. Requests of one run are not: they
share steps; nor are steps of one run: neighbours share the state of the machine. So the unit is
the repeat or the trial, or, where there are too few, a block of consecutive steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

CONFIDENCE = 0.95
LEAST_UNITS = 3
"""Fewer units have no interval."""

LEAST_RESAMPLED = 10
"""Fewer units are not resampled: a bootstrap of three covers the mean 75 times in 100."""

RESAMPLES = 1999
PERCENTILES = (50, 90, 99)


@dataclass(frozen=True, kw_only=True)
class Interval:
    """Where a mean lies with 95 % confidence; NaN where too few units say nothing of it."""

    low: float
    high: float
    method: str  # "bootstrap", "Student's t", "constant", "none"
    units: int


@dataclass(frozen=True, kw_only=True)
class Description:
    """A sample in short; `cv`: its standard deviation (n - 1) over the size of its mean."""

    n: int
    mean: float
    interval: Interval
    p50: float
    p90: float
    p99: float
    cv: float


def describe(values: ArrayLike, units: ArrayLike | None = None) -> Description:
    """What a sample holds; `units` (one number a value) says which values share a unit.

    Values without a unit (None) count as units themselves. The mean is over all values; its
    interval resamples whole units.

    Raises:
        ValueError: the sample is empty.
    """
    x = np.asarray(values, float)
    if not len(x):
        raise ValueError("a sample of nothing has no mean")
    p50, p90, p99 = np.percentile(x, PERCENTILES)
    return Description(
        n=len(x),
        mean=float(x.mean()),
        interval=interval(x if units is None else unit_values(x, np.ones(len(x)), units)),
        p50=float(p50),
        p90=float(p90),
        p99=float(p99),
        cv=variation(x),
    )


def interval(values: ArrayLike, *, seed: int = 0) -> Interval:
    """The 95 % interval of the mean of independent `values` [n].

    From 10 values on by the BCa bootstrap (Efron 1987), seeded; from 3 on by Student's t, which is
    wide enough for as few where they are near to normal; none for fewer.
    """
    x = np.asarray(values, float)
    n = len(x)
    if n < LEAST_UNITS:
        return Interval(low=np.nan, high=np.nan, method="none", units=n)
    mean = float(x.mean())
    if constant(x):
        return Interval(low=mean, high=mean, method="constant", units=n)
    if n < LEAST_RESAMPLED:
        half = float(stats.sem(x) * stats.t.ppf((1 + CONFIDENCE) / 2, n - 1))
        return Interval(low=mean - half, high=mean + half, method="Student's t", units=n)
    found = resampled((x,), np.mean, seed=seed)
    return Interval(low=found[0], high=found[1], method="bootstrap", units=n)


def resampled(samples: tuple[Floats, ...], statistic, *, seed: int = 0) -> tuple[float, float]:
    """(low, high) of `statistic(*samples, axis=)` by the BCa bootstrap, samples each by itself.

    Both ends are moved away from the statistic by what a bootstrap is too narrow for n units, of
    the smallest sample: sqrt(n / (n - 1)), and Student's quantile over the normal one (Hesterberg
    2015, section 3).
    """
    found = stats.bootstrap(
        samples,
        statistic,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="BCa",
        vectorized=True,
        axis=-1,
        rng=np.random.default_rng(seed),
    ).confidence_interval
    value = float(statistic(*samples, axis=-1))
    n, tail = min(map(len, samples)), (1 + CONFIDENCE) / 2
    wider = np.sqrt(n / (n - 1)) * stats.t.ppf(tail, n - 1) / stats.norm.ppf(tail)
    return value - wider * (value - float(found.low)), value + wider * (float(found.high) - value)


def variation(values: ArrayLike) -> float:
    """Standard deviation (n - 1) over the size of the mean; NaN for one value or a mean of 0."""
    x = np.asarray(values, float)
    mean = abs(x.mean()) if len(x) else 0.0
    return float(x.std(ddof=1) / mean) if len(x) > 1 and mean else np.nan


def unit_values(parts: ArrayLike, weights: ArrayLike, units: ArrayLike) -> Floats:
    """One value a unit whose plain mean is sum(parts) / sum(weights), float [units].

    A unit's value is the ratio of sums, moved by the unit's residual: the linearised ratio
    estimator (Cochran 1977, section 6). So units may be of unequal size, and the mean stays what it
    is over all. Parts and weights are [n]; units are numbers in any order.
    """
    _, code = np.unique(np.asarray(units), return_inverse=True)
    sums = np.bincount(code, np.asarray(parts, float))
    weighed = np.bincount(code, np.asarray(weights, float))
    ratio = sums.sum() / weighed.sum()
    return ratio + (sums - ratio * weighed) / weighed.mean()


def blocks(values: ArrayLike) -> Ints:
    """Number of the block of consecutive values that each belongs to, int64 [n], from 0.

    Blocks begin at the cube root of n values, the order that is best for the variance of a mean
    (Hall, Horowitz and Jing 1995), and double while the means of neighbours resemble each other,
    as long as ten blocks are left.
    """
    x = np.asarray(values, float)
    n = len(x)
    length = max(1, round(n ** (1 / 3)))
    while n // (2 * length) >= LEAST_RESAMPLED and _resemble(_means(x, length)):
        length *= 2
    count = max(1, n // length)
    return np.arange(n, dtype=np.int64) * count // max(1, n)


def alike(values: ArrayLike, number: Ints) -> bool:
    """Whether blocks `number` of consecutive values are too short: their means still hang together.

    So they do where values resemble each other for longer than a block: (1 + r) / (1 - r), the
    integrated time of an AR(1) series of their first autocorrelation r; or where r of the blocks'
    means is above 0, one-sided at 5 %. Straight trends are taken out before: they come back
    with the same steps.
    """
    x = np.asarray(values, float)
    means = np.bincount(number, x) / np.bincount(number)
    if len(means) < LEAST_UNITS:
        return False
    r = _first_autocorrelation(x)
    longer = (1 + r) / (1 - r) > len(x) / len(means)
    return longer or _first_autocorrelation(means) * np.sqrt(len(means)) > stats.norm.ppf(0.95)


def _first_autocorrelation(x: Floats) -> float:
    """Of what a straight line leaves; 0 where it leaves nothing."""
    away, order = x - x.mean(), np.arange(len(x)) - (len(x) - 1) / 2
    left = away - order * (order @ away) / (order @ order)
    whole = float(left @ left)
    return float(left[1:] @ left[:-1]) / whole if whole > 1e-6 * float(away @ away) else 0.0


def _means(x: Floats, length: int) -> Floats:
    count = len(x) // length
    return x[: count * length].reshape(count, length).mean(axis=1)


def _resemble(means: Floats) -> bool:
    """Whether neighbours are correlated by more than one standard error of nothing."""
    away = means - means.mean()
    whole = float(away @ away)
    return whole > 0 and float(away[1:] @ away[:-1]) / whole > 1 / np.sqrt(len(means))


def constant(x: Floats) -> bool:
    """Whether all values are equal, but for rounding."""
    return bool(np.ptp(x) <= 1e-12 * np.abs(x).max())
