"""Where one step's wall time went on one rank, by itself: the live breakdown.

It knows nothing of other ranks: a wait counts as communication as a whole. The analysis of a
finished run parts it into waiting and transferring.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from fapool.phases import Category

Piece = tuple[Category, int, int]
"""category, start, end; nanoseconds."""

_ORDER = tuple(Category)
# By value: an Enum's own hash is a Python call.
_RANK = {category.value: rank for rank, category in enumerate(_ORDER)}
_IDLE = _RANK[Category.IDLE.value]


@dataclass(frozen=True, kw_only=True)
class StepTotals:
    """One step's time: `category_ns` holds all five categories and sums to `wall_ns` exactly."""

    wall_ns: int
    category_ns: dict[Category, int]

    def __post_init__(self) -> None:
        assert sum(self.category_ns.values()) == self.wall_ns, "a breakdown sums to its step"


def partition(start_ns: int, end_ns: int, pieces: Iterable[Piece]) -> StepTotals:
    """Give every nanosecond of [start_ns, end_ns) to one category, by priority; the rest is idle.

    Pieces may overlap, nest, come in any order, be empty or reach out of the step.
    """
    clipped = sorted(
        (max(start, start_ns), min(end, end_ns), _RANK[category._value_])
        for category, start, end in pieces
        if start < end_ns and end > start_ns and start < end
    )
    totals = _sum_disjoint(clipped) or _sweep(clipped)
    wall_ns = end_ns - start_ns
    totals[_IDLE] = wall_ns - sum(totals[:_IDLE])
    return StepTotals(wall_ns=wall_ns, category_ns=dict(zip(_ORDER, totals, strict=True)))


def _sum_disjoint(pieces: list[tuple[int, int, int]]) -> list[int] | None:
    """Nanoseconds per category of pieces that do not overlap, as most do not; else None."""
    totals = [0] * len(_ORDER)
    now = 0
    for start, end, rank in pieces:
        if start < now:
            return None
        totals[rank] += end - start
        now = end
    return totals


def _sweep(pieces: list[tuple[int, int, int]]) -> list[int]:
    """Nanoseconds per category, each instant given to the first category that claims it."""
    edges = [(start, rank, 1) for start, _, rank in pieces]
    edges += [(end, rank, -1) for _, end, rank in pieces]
    totals = [0] * len(_ORDER)
    claims = [0] * len(_ORDER)
    now = 0
    for time, rank, change in sorted(edges):
        if time > now:
            first = next((r for r, count in enumerate(claims) if count), _IDLE)
            totals[first] += time - now
            now = time
        claims[rank] += change
    return totals
