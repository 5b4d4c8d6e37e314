"""What readings of two clocks say of one against the other: a line, and how far it may be off.

A far clock is read between two readings of the near one, so that its offset then lies in an
interval as wide as the trip. A line that passes through the intervals of all rounds is bounded far
closer than by the best trip: the quickest way there and the quickest way back may be of different
rounds (Duda, Harrus, Haddad and Bernard, Estimating global time in distributed systems, 1987).

    hi    v     v            v  v
    ---------------------------------   offset
    lo       ^          ^         ^
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

MAX_DRIFT = 1e-3
"""Most that two clocks may drift apart: either may be slewed by 500 ppm beside its crystal."""

_MARGIN_NS = 1.0  # what rounding to whole nanoseconds may take off an interval


@dataclass(frozen=True, slots=True)
class Bound:
    """At `at_ns` on the near clock the offset lay in [low_ns, high_ns]."""

    at_ns: int
    low_ns: int
    high_ns: int


@dataclass(frozen=True, kw_only=True)
class Line:
    """What to add to a near clock to get the far one: straight between two moments, and on.

    The truth was within the uncertainty of it at either moment, and so in between, if the drift
    was constant. `misfit_ns`: by how much no line fits all rounds, 0 if one does; a clock was
    stepped or slewed meanwhile, and the uncertainty has it in it.
    """

    start_ns: int
    end_ns: int  # later than the start
    start_offset_ns: int
    end_offset_ns: int
    start_uncertainty_ns: int
    end_uncertainty_ns: int
    rounds: int
    misfit_ns: int = 0

    def offset_ns(self, at_ns: int) -> int:
        """The offset at a moment of the near clock; `at_ns` plus it never goes back."""
        change = self.end_offset_ns - self.start_offset_ns
        return self.start_offset_ns + change * (at_ns - self.start_ns) // self.length_ns

    @property
    def length_ns(self) -> int:
        """Between the two moments."""
        return self.end_ns - self.start_ns

    @property
    def drift_ppb(self) -> int:
        """Nanoseconds that the far clock gains in a second of the near one."""
        return round((self.end_offset_ns - self.start_offset_ns) * 1e9 / self.length_ns)

    @property
    def uncertainty_ns(self) -> int:
        """The larger one, which bounds the error between the two moments."""
        return max(self.start_uncertainty_ns, self.end_uncertainty_ns)


def rounds_of(
    exchange: Callable[[], int],
    clock: Callable[[], int],
    rounds: int,
    prepare: Callable[[], None] = lambda: None,
) -> list[tuple[int, int, int]]:
    """(before, far, after) of as many rounds, each of which is prepared for before the first.

    One more is made at the beginning: it is slow, and left out.
    """
    found = []
    for _ in range(rounds + 1):
        prepare()
        before = clock()
        far = exchange()
        found.append((before, far, clock()))
    return found[1:]


def bound_far(before: int, far: int, after: int) -> Bound:
    """What a round says of far minus near, by the near clock."""
    slack = _slack(after - before)
    return Bound((before + after) // 2, far - after - slack, far - before + slack)


def bound_near(before: int, far: int, after: int) -> Bound:
    """What a round says of near minus far, by the far clock."""
    return Bound(far, before - far, after - far)


def fit(bounds: Sequence[Bound], max_drift: float = MAX_DRIFT) -> Line:
    """The line in the middle of all that pass through all bounds, of one round or more.

    Rounds of one moment say nothing of the drift: it is then anything up to `max_drift`, and the
    line is good for that moment.
    """
    assert bounds, "no round was made"
    start, end = min(b.at_ns for b in bounds), max(b.at_ns for b in bounds)
    end = max(end, start + 1)
    zero = bounds[0].low_ns  # so that floats hold what is left to a fraction of a nanosecond
    rows = [
        ((b.at_ns - start) / (end - start), float(b.low_ns - zero), float(b.high_ns - zero))
        for b in bounds
    ]
    reach = max_drift * (end - start)
    misfit, found = 0.0, _feasible(rows, reach, 0.0)
    while not found:
        misfit = max(1.0, 2 * misfit)
        found = _feasible(rows, reach + misfit, misfit)
    ends = [sorted(offsets) for offsets in zip(*found, strict=True)]
    middles = [round((values[0] + values[-1]) / 2) for values in ends]
    halves = [int((values[-1] - values[0]) / 2) + 1 for values in ends]
    if misfit:
        line = [middles[0] + place * (middles[1] - middles[0]) for place, _, _ in rows]
        off = [max(at - low, high - at) for at, (_, low, high) in zip(line, rows, strict=True)]
        halves = [int(max(off)) + 1] * 2
    return Line(
        start_ns=start,
        end_ns=end,
        start_offset_ns=zero + middles[0],
        end_offset_ns=zero + middles[1],
        start_uncertainty_ns=halves[0],
        end_uncertainty_ns=halves[1],
        rounds=len(bounds),
        misfit_ns=round(misfit),
    )


def _slack(trip_ns: int) -> int:
    return int(MAX_DRIFT * trip_ns / 2) + 1  # the far clock was read off the middle of the trip


def _feasible(
    rows: list[tuple[float, float, float]], reach: float, wider: float
) -> list[tuple[float, float]]:
    """Corners of the set of (offset at the start, offset at the end) that keep all bounds.

    `rows`: (place between start and end, low, high). None are left where no line keeps them.
    """
    wide = _MARGIN_NS + wider
    low = min(row[1] for row in rows) - reach - wide - 1
    high = max(row[2] for row in rows) + reach + wide + 1
    corners = [(low, low), (high, low), (high, high), (low, high)]
    cuts = [(-1.0, 1.0, reach), (1.0, -1.0, reach)]
    for place, lower, upper in rows:
        cuts += [(1 - place, place, upper + wide), (place - 1, -place, wide - lower)]
    for a, b, limit in cuts:
        corners = _cut(corners, a, b, limit)
        if not corners:
            break
    return corners


def _cut(
    corners: list[tuple[float, float]], a: float, b: float, limit: float
) -> list[tuple[float, float]]:
    """A convex polygon's part with a x + b y <= limit (Sutherland and Hodgman, 1974)."""
    over = [a * x + b * y - limit for x, y in corners]
    if all(value <= 0 for value in over):
        return corners
    kept = []
    for i, (x, y) in enumerate(corners):
        before, (x0, y0) = over[i - 1], corners[i - 1]
        if (before <= 0) != (over[i] <= 0):
            part = before / (before - over[i])
            kept.append((x0 + part * (x - x0), y0 + part * (y - y0)))
        if over[i] <= 0:
            kept.append((x, y))
    return kept
