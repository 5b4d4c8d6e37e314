"""Tests of two samples against published values, scipy, brute force and simulation."""

from itertools import chain, combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fapool.analysis.statistics.significance import (
    MANN_WHITNEY,
    PAIRED,
    SIGNED_RANKS,
    WELCH,
    cliffs_delta,
    contrast,
    hedges_g,
    holm,
    paired,
)

# Student's sleep data, as R ships them (datasets::sleep): extra sleep in hours, two drugs.
FIRST = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
SECOND = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
# In steps that scipy squares without losing them.
VALUES = st.integers(-(10**12), 10**12).map(lambda count: count / 1e9)
SAMPLES = st.lists(VALUES, min_size=3, max_size=12, unique=True)


def test_students_sleep_data_have_the_values_that_r_prints():
    found = contrast(SECOND, FIRST)
    assert found.test == WELCH
    assert found.p == found.t_p == pytest.approx(0.07939, abs=5e-6)
    assert (found.low, found.high) == pytest.approx((-3.3654832, 0.2054832))
    assert found.ranks_p == pytest.approx(0.06933, abs=5e-6)


def test_students_sleep_data_in_pairs_have_the_values_that_r_prints():
    found = paired(np.subtract(FIRST, SECOND))
    assert found.ranks_p == pytest.approx(stats.wilcoxon(FIRST, SECOND).pvalue)
    assert found.t_p == pytest.approx(0.002833, abs=5e-7)
    assert (found.low, found.high) == pytest.approx((-2.4598858, -0.7001142))


def test_pairs_with_long_tails_are_ranked():
    differences = np.random.default_rng(2).lognormal(0, 2, 20)
    found = paired(differences)
    assert found.test == SIGNED_RANKS
    assert found.p == stats.wilcoxon(differences).pvalue
    assert 0 < found.low < found.difference < found.high


@given(st.lists(st.floats(-1e3, 1e3), min_size=3, max_size=7, unique=True))
def test_few_pairs_are_compared_by_scipys_t(differences):
    found, expected = paired(differences), stats.ttest_1samp(differences, 0)
    assert found.test == PAIRED
    assert found.p == pytest.approx(expected.pvalue, rel=1e-6, abs=1e-12)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval(0.95)))


def test_pairs_see_what_a_common_trend_hides():
    rng, trend = np.random.default_rng(0), np.linspace(10, 20, 20)
    a, b = trend + rng.normal(0, 0.1, 20), trend + 0.5 + rng.normal(0, 0.1, 20)
    assert contrast(a, b).p > 0.5
    assert paired(b - a).p < 1e-6


def test_the_tortoises_and_the_hare_have_the_delta_of_their_u():
    # The textbook race T H H H H H T T T T T H: U is 25 of 36 for the hares' places.
    places = {"T": [1, 7, 8, 9, 10, 11], "H": [2, 3, 4, 5, 6, 12]}
    assert cliffs_delta(places["H"], places["T"]) == pytest.approx(2 * 25 / 36 - 1)


@given(SAMPLES, SAMPLES)
def test_welch_is_scipys(a, b):
    found, expected = contrast(a, b), stats.ttest_ind(b, a, equal_var=False)
    assert found.t_p == pytest.approx(expected.pvalue, rel=1e-6, abs=1e-12)
    if found.test == WELCH:
        between = expected.confidence_interval(0.95)
        assert (found.low, found.high) == pytest.approx(tuple(between), rel=1e-6)


def test_no_unit_is_too_small():
    a, b = np.array([0.0, 1.6, 5.4, 2.2]), np.array([3.5, 0.3, 7.7])
    assert contrast(a * 1e-100, b * 1e-100).t_p == pytest.approx(contrast(a, b).t_p, rel=1e-9)


@given(st.lists(st.integers(0, 9), min_size=1), st.lists(st.integers(0, 9), min_size=1))
def test_cliffs_delta_counts_every_pair(a, b):
    pairs = [np.sign(y - x) for x in a for y in b]
    assert cliffs_delta(a, b) == pytest.approx(np.mean(pairs))


def test_hedges_correction_is_that_of_his_table():
    # c(m) of Hedges (1981), table 2: m = 10 0.9228, m = 20 0.9619
    for half, expected in ((6, 0.9228), (11, 0.9619)):
        a = np.arange(half, dtype=float)
        d = 1 / a.std(ddof=1)
        assert hedges_g(a, a + 1) / d == pytest.approx(expected, abs=1e-4)


def test_far_units_with_long_tails_are_ranked():
    rng = np.random.default_rng(0)
    a, b = rng.lognormal(0, 2, 20), rng.lognormal(3, 2, 20)
    found = contrast(a, b)
    assert found.test == MANN_WHITNEY
    assert found.p == stats.mannwhitneyu(b, a).pvalue
    assert found.low < found.difference < found.high


def test_many_units_and_very_few_are_compared_by_their_means():
    rng = np.random.default_rng(0)
    assert contrast(rng.lognormal(0, 2, 30), rng.lognormal(0, 2, 30)).test == WELCH
    assert contrast([1, 1, 90], [2, 2, 3]).test == WELCH


def test_two_units_say_nothing():
    found = contrast([1.0, 2.0], [3.0, 4.0, 5.0])
    assert found.difference == 2.5
    assert np.isnan([found.p, found.low, found.high, found.hedges_g]).all()


def test_constants_differ_for_certain_or_not_at_all():
    apart = contrast([1.0] * 3, [2.0] * 3)
    assert (apart.p, apart.low, apart.high) == (0, 1, 1)
    assert contrast([0.1 + 0.2] * 3, [0.3] * 3).p in (0, 1)  # no warning of lost precision
    assert contrast([2.0] * 3, [2.0] * 3).p == 1


@pytest.mark.parametrize(
    "draw",
    [lambda rng, n: rng.normal(0, 1, n), lambda rng, n: rng.lognormal(0, 1, n)],
    ids=["normal", "lognormal"],
)
@pytest.mark.parametrize("n", [3, 15, 40])
def test_equal_laws_are_told_apart_as_rarely_as_the_level_says(draw, n):
    rng = np.random.default_rng(n)
    found = [_p(draw(rng, n), draw(rng, n)) < 0.05 for _ in range(300)]
    assert np.mean(found) <= 0.085  # 0.05 and 2.8 standard errors of 300


def _p(a, b) -> float:
    return contrast(a, b).p


def test_holm_has_the_textbook_values():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_is_the_closure_of_bonferroni(p):
    """Adjusted p: the largest of min(1, |I| min p) over the sets I that hold the hypothesis."""
    indices = range(len(p))
    sets = list(chain.from_iterable(combinations(indices, k + 1) for k in indices))
    expected = [max(min(1, len(s) * min(p[j] for j in s)) for s in sets if i in s) for i in indices]
    assert holm(p) == pytest.approx(expected)


def test_holm_passes_over_what_was_not_tested():
    assert holm([np.nan, 0.02, 0.01]) == pytest.approx([np.nan, 0.02, 0.02], nan_ok=True)
