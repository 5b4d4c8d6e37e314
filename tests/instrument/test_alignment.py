"""The true offset lies in the stated interval, whatever a network does to the rounds."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fapool.instrument.alignment import (
    MAX_DRIFT,
    Bound,
    Line,
    bound_far,
    bound_near,
    fit,
    rounds_of,
)

SECOND = 1_000_000_000


class Network:
    """Two clocks apart, and messages that take their time from one to the other and back."""

    def __init__(self, offset_ns: int, drift: float, delays: random.Random, ways: tuple) -> None:
        self.now, self.offset, self.drift = 77 * SECOND, offset_ns, drift
        self.delays, self.ways = delays, ways

    def far(self) -> int:
        return self.now + self.true_offset(self.now)

    def true_offset(self, near_ns: int) -> int:
        return self.offset + round(self.drift * (near_ns - 77 * SECOND))

    def exchange(self) -> int:
        there, back = self.ways
        self.now += there + round(self.delays.expovariate(1 / 20_000))
        far = self.far()
        self.now += back + round(self.delays.expovariate(1 / 20_000))
        return far

    def series(self, rounds: int) -> list[tuple[int, int, int]]:
        return rounds_of(self.exchange, lambda: self.now, rounds)


ways = st.tuples(st.integers(0, 500_000), st.integers(0, 500_000))
drifts = st.floats(-0.9 * MAX_DRIFT, 0.9 * MAX_DRIFT)
seeds = st.integers(0, 10**9)
offsets = st.integers(-(10**18), 10**18)


@given(offsets, drifts, seeds, ways, st.integers(1, 4))
def test_the_truth_lies_in_the_interval_at_all_times_between(offset, drift, seed, ways, series):
    network, bounds, asked = Network(offset, drift, random.Random(seed), ways), [], []
    for _ in range(series):
        made = network.series(8)
        bounds += [bound_far(*trip) for trip in made]
        asked += [trip[0] for trip in made]
        network.now += SECOND
    line = fit(bounds)
    assert line.misfit_ns == 0
    for at in (line.start_ns, *asked, line.end_ns):
        error = abs(line.offset_ns(at) - network.true_offset(at))
        assert error <= line.uncertainty_ns
    seconds = line.length_ns / SECOND
    both = line.start_uncertainty_ns + line.end_uncertainty_ns
    assert abs(line.drift_ppb - drift * 1e9) * seconds <= both + 1
    # By any one round: half its trip, read off its middle, and then drifted apart for so long.
    known = [
        (after - before) / 2 * (1 + MAX_DRIFT) + MAX_DRIFT * (line.end_ns - (before + after) / 2)
        for before, _, after in made
    ]
    assert line.end_uncertainty_ns <= min(known) + 4  # what is rounded up to a whole one


@given(offsets, drifts, seeds, ways)
def test_a_clock_that_is_read_twice_may_be_the_one_that_is_sought(offset, drift, seed, ways):
    network = Network(offset, drift, random.Random(seed), ways)
    made = network.series(8)
    line = fit([bound_near(*trip) for trip in made])
    for before, far, after in made:
        at = far + line.offset_ns(far)
        assert before - line.uncertainty_ns <= at <= after + line.uncertainty_ns
    assert line.uncertainty_ns <= min(after - before for before, _, after in made)


def test_rounds_together_say_more_than_the_best_of_them():
    trips = [(100, 900), (900, 100), (500, 500)]  # there, back
    bounds = [Bound(1_000 * i, 50 - back, 50 + there) for i, (there, back) in enumerate(trips)]
    assert fit(bounds, 0).uncertainty_ns <= 102 < min(sum(trip) for trip in trips) // 2


def test_ways_of_unequal_length_shift_the_middle_by_half_of_what_they_differ():
    network = Network(0, 0.0, random.Random(1), (400_000, 100_000))
    line = fit([bound_far(*trip) for trip in network.series(200)])
    assert line.offset_ns(line.start_ns) == pytest.approx(150_000, abs=5_000)
    assert 250_000 <= line.uncertainty_ns <= 260_000


def test_a_clock_that_was_stepped_is_told_and_stays_within_the_uncertainty():
    network, bounds, truth = Network(5_000, 0.0, random.Random(2), (1_000, 1_000)), [], []
    for step in (0, 3_000_000, 0):
        network.offset += step
        made = network.series(20)
        bounds += [bound_far(*trip) for trip in made]
        truth += [(trip[0], network.offset) for trip in made]
        network.now += SECOND
    line = fit(bounds)
    assert 500_000 < line.misfit_ns < 6_000_000
    assert all(abs(line.offset_ns(at) - offset) <= line.uncertainty_ns for at, offset in truth)


@given(st.integers(-(10**6), 10**6), st.lists(st.integers(0, 10**12), min_size=2, max_size=9))
def test_order_is_kept_and_equal_times_stay_equal(change, times):
    line = Line(
        start_ns=5,
        end_ns=5 + SECOND,
        start_offset_ns=10**18,
        end_offset_ns=10**18 + change,
        start_uncertainty_ns=1,
        end_uncertainty_ns=1,
        rounds=2,
    )
    moved = [time + line.offset_ns(time) for time in sorted(times)]
    assert moved == sorted(moved)
    assert line.offset_ns(5) == 10**18


def test_the_first_round_is_left_out():
    readings = iter(range(100))
    assert rounds_of(lambda: next(readings), lambda: next(readings), 2) == [(3, 4, 5), (6, 7, 8)]
