"""Numbers in print, alike in the terminal and in the report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fapool.analysis.summary import rounded
from fapool.analysis.wording import count

if TYPE_CHECKING:
    from fapool.analysis.statistics.described import Sample  # loads scipy: analyze goes without

SPREAD = ("of", "mean", "95 %", "p50", "p90", "p99", "CV")


def number(value: float | None) -> str:
    """A metric in print: four significant digits, a dash where there is none."""
    if value is None or math.isnan(value):
        return "–"
    if abs(value) >= 1000 or float(value).is_integer():
        return f"{value:,.0f}"
    return f"{value:#.4g}".rstrip(".")


def ratio(value: float | None, first: float | None) -> str:
    """What a metric is of the first run's, in print; empty where there is none."""
    return "" if value is None or not first else f"×{value / first:.3f}"


def summed(parts: Sequence[float], whole: float) -> list[str]:
    """Parts in print, and the whole behind them that they sum to as printed."""
    shown, wall = rounded(parts, whole)
    return [f"{value:.3f}" for value in (*shown, wall)]


def between(low: float, high: float, form: str = "") -> str:
    """An interval in print; a dash where there is none. `form` formats an end."""
    if math.isnan(low) or math.isnan(high):
        return "–"
    ends = [form.format(end) if form else number(end) for end in (low, high)]
    return f"{ends[0]} to {ends[1]}"


def spread(sample: Sample) -> list[str]:
    """A sample in print, under the heads of `SPREAD`."""
    found = sample.found
    ends = between(found.interval.low, found.interval.high)
    cuts = [number(value) for value in (found.p50, found.p90, found.p99)]
    cv = "–" if math.isnan(found.cv) else f"{found.cv:.1%}"
    return [count(found.n, sample.of), number(found.mean), ends, *cuts, cv]


def probability(p: float) -> str:
    """A p-value in print; a dash where there is none."""
    if math.isnan(p):
        return "–"
    return "<0.001" if p < 0.001 else f"{p:.3f}"
