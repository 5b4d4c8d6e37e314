"""Where one step's wall time went on one rank, by itself: the live breakdown.

It knows nothing of other ranks: a wait counts as communication as a whole. The analysis of a
finished run parts it into waiting and transferring.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fapool.phases import Category, Phase

Piece = tuple[int, int, int]
"""start, end (nanoseconds), and the priority of the phase."""

PRIORITY = {phase.value: list(Category).index(phase.category) for phase in Phase}
_IDLE = list(Category).index(Category.IDLE)


@dataclass(frozen=True, kw_only=True)
class StepTotals:
    """One step's time: `category_ns` holds all five categories and sums to `wall_ns` exactly.

    `known`: spans were recorded in the step, or none are in the whole run.
    """

    wall_ns: int
    category_ns: dict[Category, int]
    known: bool = True

    def __post_init__(self) -> None:
        assert sum(self.category_ns.values()) == self.wall_ns, "a breakdown sums to its step"


def partition(
    start_ns: int, end_ns: int, pieces: Sequence[Piece], *, known: bool = True
) -> StepTotals:
    """Give every nanosecond of [start_ns, end_ns) to one category, by priority; the rest is idle.

    Pieces may overlap, nest, come in any order, be empty or reach out of the step.
    """
    totals = _sum_in_order(start_ns, end_ns, pieces)
    if totals is None:
        clipped = [(max(s, start_ns), min(e, end_ns), priority) for s, e, priority in pieces]
        totals = _sweep([piece for piece in clipped if piece[0] < piece[1]])
    wall_ns = end_ns - start_ns
    totals[_IDLE] = wall_ns - sum(totals)
    category_ns = dict(zip(Category, totals, strict=True))
    return StepTotals(wall_ns=wall_ns, category_ns=category_ns, known=known)


def _sum_in_order(start_ns: int, end_ns: int, pieces: Sequence[Piece]) -> list[int] | None:
    """Nanoseconds per category if all pieces lie in the step one after the other; else None."""
    totals = [0] * len(Category)
    now = start_ns
    for start, end, priority in pieces:
        if start < now or end < start:
            return None
        totals[priority] += end - start
        now = end
    return totals if now <= end_ns else None


def _sweep(pieces: list[tuple[int, int, int]]) -> list[int]:
    """Nanoseconds per category, each instant given to the first category that claims it; idle 0."""
    edges = [(start, priority, 1) for start, _, priority in pieces]
    edges += [(end, priority, -1) for _, end, priority in pieces]
    edges.sort()
    totals = [0] * len(Category)
    claims = [0] * len(Category)
    now = edges[0][0] if edges else 0
    for time, priority, change in edges:
        if time > now:
            for first, number in enumerate(claims):
                if number:
                    totals[first] += time - now
                    break
            now = time
        claims[priority] += change
    return totals
