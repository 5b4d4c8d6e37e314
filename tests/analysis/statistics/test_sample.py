"""Intervals cover what they claim to, whatever the sample and its units look like."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fapool.analysis.statistics.sample import (
    LEAST_RESAMPLED,
    alike,
    blocks,
    describe,
    interval,
    unit_values,
    variation,
)

NUMBERS = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40)


@given(NUMBERS)
def test_a_description_says_what_numpy_and_scipy_say(values):
    found = describe(values)
    assert found.n == len(values)
    assert found.mean == pytest.approx(np.mean(values), abs=1e-6)
    assert (found.p50, found.p90) == (np.percentile(values, 50), np.percentile(values, 90))
    expected = stats.variation(values, ddof=1) if len(values) > 1 and np.mean(values) else np.nan
    assert found.cv == pytest.approx(abs(expected), nan_ok=True)


def test_nothing_has_no_mean():
    with pytest.raises(ValueError, match="nothing"):
        describe([])


@given(st.lists(st.floats(0.1, 1e3), min_size=3, max_size=9, unique=True))
def test_few_units_have_students_interval(values):
    found = interval(values)
    low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))


def test_many_units_have_scipys_bca_interval_widened_as_hesterberg_says():
    values = np.random.default_rng(3).exponential(size=25)
    expected = stats.bootstrap(
        (values,), np.mean, n_resamples=1999, method="BCa", rng=np.random.default_rng(0)
    ).confidence_interval
    found, mean = interval(values), values.mean()
    wider = 1.0206207 * 2.0638986 / 1.9599640  # sqrt(25 / 24), t and normal quantile from tables
    assert found.low - mean == pytest.approx(wider * (expected.low - mean))
    assert found.high - mean == pytest.approx(wider * (expected.high - mean))


def test_one_or_two_units_have_no_interval_and_equal_ones_no_width():
    assert np.isnan(interval([1.0, 2.0]).low)
    assert interval([1.0, 2.0]).method == "none"
    assert (interval([0.1] * 12).low, interval([0.1] * 12).high) == pytest.approx((0.1, 0.1))


@pytest.mark.parametrize(
    ("draw", "n", "least"),
    [
        (lambda rng, n: rng.normal(10, 1, n), 3, 0.93),
        (lambda rng, n: rng.normal(10, 1, n), 24, 0.92),
        (lambda rng, n: rng.exponential(10, n), 40, 0.90),
    ],
    ids=["3 normal", "24 normal", "40 exponential"],
)
def test_intervals_cover_the_mean_as_often_as_they_say(draw, n, least):
    rng = np.random.default_rng(11)
    found = [interval(draw(rng, n)) for _ in range(300)]
    share = np.mean([one.low <= 10 <= one.high for one in found])
    assert least <= share <= 0.98


def autocorrelated(rng: np.random.Generator, n: int, rho: float = 0.7) -> np.ndarray:
    """An AR(1) series of mean 0."""
    noise, x = rng.normal(size=n + 50), np.zeros(n + 50)
    for i in range(1, n + 50):
        x[i] = rho * x[i - 1] + noise[i]
    return x[50:]


def test_blocks_cover_the_mean_of_steps_that_resemble_their_neighbours():
    rng = np.random.default_rng(5)
    series = [autocorrelated(rng, 400) for _ in range(200)]

    def covered(units) -> float:
        ours = [interval(unit_values(x, np.ones(len(x)), units(x))) for x in series]
        return float(np.mean([one.low <= 0 <= one.high for one in ours]))

    assert covered(blocks) >= 0.89
    assert covered(lambda x: np.arange(len(x))) < 0.75  # each step by itself: far too narrow


def test_blocks_that_cannot_grow_long_enough_are_said_to_be_alike():
    rng = np.random.default_rng(7)

    def said(rho: float, n: int) -> tuple[float, float]:
        """(share of series with a warning, share of intervals that cover)."""
        series = [autocorrelated(rng, n, rho) for _ in range(100)]
        numbers = [blocks(x) for x in series]
        units = [unit_values(x, np.ones(n), own) for x, own in zip(series, numbers, strict=True)]
        found = [interval(x) for x in units]
        warned = [alike(x, own) for x, own in zip(series, numbers, strict=True)]
        return np.mean(warned), np.mean([one.low <= 0 <= one.high for one in found])

    warned, covered = said(0.9, 40)
    assert covered < 0.75
    assert warned >= 0.85
    warned, covered = said(0.0, 40)
    assert covered >= 0.88
    assert warned <= 0.07
    warned, covered = said(0.7, 400)
    assert covered >= 0.83
    assert warned <= 0.15


def test_a_straight_line_is_not_what_neighbours_have_in_common():
    noise = np.random.default_rng(1).normal(size=60)
    for x in (np.arange(60.0), np.arange(60) + noise, np.ones(60)):
        assert not alike(x, blocks(x))
    assert not alike(np.arange(5.0), np.zeros(5, int))


def test_repeats_cover_the_mean_of_requests_that_share_their_repeat():
    rng, hits = np.random.default_rng(6), []
    for _ in range(300):
        repeats = np.repeat(np.arange(5), 64)
        values = 10 + rng.normal(0, 1, 5)[repeats] + rng.normal(0, 1, len(repeats))
        found = describe(values, repeats).interval
        hits.append(found.low <= 10 <= found.high)
    assert 0.92 <= np.mean(hits) <= 0.98


@given(
    st.lists(
        st.tuples(st.floats(0, 1e3), st.floats(0.1, 10), st.integers(0, 5)), min_size=1, max_size=30
    )
)
def test_units_of_any_size_have_the_mean_of_all(rows):
    parts, weights, units = map(np.array, zip(*rows, strict=True))
    found = unit_values(parts, weights, units)
    assert len(found) == len(set(units.tolist()))
    assert found.mean() == pytest.approx(parts.sum() / weights.sum(), abs=1e-9)


def test_units_of_equal_size_have_the_means_of_their_own():
    found = unit_values([1, 3, 10, 20], [1, 1, 1, 1], [0, 0, 1, 1])
    assert found == pytest.approx([2, 15])


@given(st.integers(1, 500))
def test_blocks_are_consecutive_and_of_nearly_equal_size(n):
    found = blocks(np.random.default_rng(n).normal(size=n))
    assert (np.diff(found) >= 0).all()
    sizes = np.bincount(found)
    assert sizes.max() - sizes.min() <= 1
    assert sizes.min() >= 1


def test_blocks_grow_with_what_neighbours_have_in_common():
    rng = np.random.default_rng(2)
    alone, slow = rng.normal(size=1000), autocorrelated(rng, 1000, 0.98)
    assert blocks(alone).max() + 1 >= 50
    assert LEAST_RESAMPLED <= blocks(slow).max() + 1 < 50


def test_the_size_of_a_variation_has_no_sign():
    assert variation([-1.0, -3.0]) == pytest.approx(np.sqrt(2) / 2)
    assert np.isnan(variation([1.0]))
