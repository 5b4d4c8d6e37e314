"""Two samples side by side: how far apart, by chance or not, and how much that is.

Which test is reported: Welch's t, a test of means like all that we report, unless both its excuses
fail. Its excuses: at least 30 units on either side, where means are normal whatever the units are;
or no sign against normal units (Shapiro-Wilk, p >= 0.01). Fewer than 8 units a side show no such
sign, and rank tests cannot help there: of 3 against 3, Mann-Whitney's p is never below 0.1. Else
Mann-Whitney's U. Both are computed always. Of units in pairs the same holds for their differences:
a paired t, or Wilcoxon's signed ranks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike
from scipy import special, stats

from fapool.analysis.statistics.sample import CONFIDENCE, LEAST_UNITS, Floats, constant, resampled

WELCH, MANN_WHITNEY = "Welch's t", "Mann-Whitney U"
PAIRED, SIGNED_RANKS = "paired t", "Wilcoxon signed ranks"
MANY = 30
"""Units a side from which on the mean of any is normal enough."""

FEW = 8
"""Units a side below which Shapiro-Wilk sees nothing."""

NOT_NORMAL = 0.01


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """`b` against `a`: difference of means b - a with its 95 % interval, and what chance says.

    `p` is of the test that is named, `t_p` and `ranks_p` of both that were computed. `hedges_g`:
    the difference in standard deviations (of pairs: of their differences), corrected for small
    samples (Hedges 1981). `cliffs_delta`: P(b > a) - P(b < a), -1 to 1 (of pairs: of their
    differences' signs). NaN where a side has fewer than three units.
    """

    difference: float
    low: float
    high: float
    p: float
    test: str
    t_p: float
    ranks_p: float
    hedges_g: float
    cliffs_delta: float
    units: tuple[int, int]

    def about(self, difference: float) -> Contrast:
        """The same with its interval moved to stand about `difference`; p and sizes stay."""
        away = difference - self.difference
        return replace(self, difference=difference, low=self.low + away, high=self.high + away)

    def within(self) -> Contrast:
        """The same without p and size: parts of one execution tell nothing of a next one."""
        unknown = dict.fromkeys(("p", "t_p", "ranks_p", "hedges_g", "cliffs_delta"), np.nan)
        return replace(self, test="", **unknown)


def contrast(a: ArrayLike, b: ArrayLike, *, seed: int = 0) -> Contrast:
    """Hold `b` [n] against `a` [m]: values of independent units."""
    a, b = _snapped(a), _snapped(b)
    if len(a) and len(b) and constant(np.r_[a, b]):
        b = np.full(len(b), a[0])
    difference = float(b.mean() - a.mean()) if len(a) and len(b) else np.nan
    low = high = t_p = ranks_p = np.nan
    test = ""
    if min(len(a), len(b)) >= LEAST_UNITS:
        test = WELCH if _means_are_normal(a, b) else MANN_WHITNEY
        low, high, t_p = _welch(a, b, difference)
        ranks_p = float(stats.mannwhitneyu(b, a).pvalue)
        if test == MANN_WHITNEY:
            low, high = resampled((b, a), _apart, seed=seed)
    return Contrast(
        difference=difference,
        low=low,
        high=high,
        p=t_p if test == WELCH else ranks_p,
        test=test,
        t_p=t_p,
        ranks_p=ranks_p,
        hedges_g=hedges_g(a, b),
        cliffs_delta=cliffs_delta(a, b),
        units=(len(a), len(b)),
    )


def paired(differences: ArrayLike, *, seed: int = 0) -> Contrast:
    """The same of pairs: `differences` b - a [n] between units that did the same work."""
    d = _snapped(differences)
    n, mean = len(d), float(np.mean(d)) if len(d) else np.nan
    low = high = t_p = ranks_p = size = np.nan
    test = ""
    if n >= LEAST_UNITS:
        test = PAIRED if _means_are_normal(d) else SIGNED_RANKS
        low, high, t_p = _students(d, mean)
        ranks_p = float(stats.wilcoxon(d).pvalue) if d.any() else 1.0
        size = _standardised(mean, d.std(ddof=1), n - 1)
        if test == SIGNED_RANKS:
            low, high = resampled((d,), np.mean, seed=seed)
    return Contrast(
        difference=mean,
        low=low,
        high=high,
        p=t_p if test == PAIRED else ranks_p,
        test=test,
        t_p=t_p,
        ranks_p=ranks_p,
        hedges_g=size,
        cliffs_delta=float(np.sign(d).mean()) if n else np.nan,
        units=(n, n),
    )


def hedges_g(a: ArrayLike, b: ArrayLike) -> float:
    """Difference of means b - a over the pooled standard deviation, times Hedges' correction."""
    a, b = np.asarray(a, float), np.asarray(b, float)
    free = len(a) + len(b) - 2
    if min(len(a), len(b)) < LEAST_UNITS:
        return np.nan
    pooled = np.sqrt(((len(a) - 1) * a.var(ddof=1) + (len(b) - 1) * b.var(ddof=1)) / free)
    return _standardised(b.mean() - a.mean(), pooled, free)


def cliffs_delta(a: ArrayLike, b: ArrayLike) -> float:
    """P(b > a) - P(b < a) over all pairs (Cliff 1993); NaN for an empty sample."""
    a, b = np.sort(np.asarray(a, float)), np.asarray(b, float)
    if not len(a) or not len(b):
        return np.nan
    below, upto = np.searchsorted(a, b, "left"), np.searchsorted(a, b, "right")
    return float((below + upto - len(a)).sum() / (len(a) * len(b)))


def holm(p: ArrayLike) -> Floats:
    """p-values adjusted for being several (Holm 1979), in their order; NaN stays and counts not.

    Rejecting where the adjusted p is below a level errs with that probability at most over all of
    them together, however they depend on each other.
    """
    p = np.asarray(p, float)
    adjusted = np.full(len(p), np.nan)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    steps = p[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted


def _standardised(apart: float, deviation: float, free: int) -> float:
    if not deviation:
        return 0.0 if not apart else float(np.copysign(np.inf, apart))
    exact = np.exp(special.gammaln(free / 2) - special.gammaln((free - 1) / 2))
    return float(apart / deviation * exact / np.sqrt(free / 2))


def _means_are_normal(*samples: Floats) -> bool:
    if min(map(len, samples)) >= MANY:
        return True
    return not any(len(x) >= FEW and np.ptp(x) and _p_normal(x) < NOT_NORMAL for x in samples)


def _p_normal(x: Floats) -> float:
    # scaled, or a small spread beside a large mean is taken for none
    return float(stats.shapiro((x - x.mean()) / np.ptp(x)).pvalue)


def _snapped(values: ArrayLike) -> Floats:
    """Without rounding errors where they are all that varies."""
    x = np.asarray(values, float)
    return np.full(len(x), x[0]) if len(x) and constant(x) else x


def _welch(a: Floats, b: Floats, difference: float) -> tuple[float, float, float]:
    """(low, high, p) by Welch (1947); of two constants it is certain whether they differ."""
    parts = [x.var(ddof=1) / len(x) for x in (a, b)]
    if not any(parts):
        return difference, difference, float(not difference)
    error = np.sqrt(sum(parts))
    weights = np.array(parts) / sum(parts)  # whose squares do not vanish where those of parts do
    free = 1 / sum(w**2 / (len(x) - 1) for w, x in zip(weights, (a, b), strict=True))
    half = stats.t.ppf((1 + CONFIDENCE) / 2, free) * error
    p = 2 * stats.t.sf(abs(difference) / error, free)
    return float(difference - half), float(difference + half), float(p)


def _students(d: Floats, mean: float) -> tuple[float, float, float]:
    """(low, high, p) by Student's t; see `_welch`."""
    error, free = d.std(ddof=1) / np.sqrt(len(d)), len(d) - 1
    if not error:
        return mean, mean, float(not mean)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, free) * error)
    return mean - half, mean + half, float(2 * stats.t.sf(abs(mean) / error, free))


def _apart(b: Floats, a: Floats, axis: int) -> Floats:
    return b.mean(axis=axis) - a.mean(axis=axis)
