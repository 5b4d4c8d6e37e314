"""A doubt is voiced where there is reason for one, and nowhere else."""

import numpy as np
import pytest

from fapool.analysis.sampled import Sampling
from fapool.analysis.statistics import doubts
from fapool.analysis.statistics.units import units
from fapool.analysis.study import study
from fapool.spec import Workload
from tests.synthetic import small_spec, write_run


@pytest.fixture
def steady() -> np.ndarray:
    return np.random.default_rng(1).normal(10, 0.2, 200)


def test_a_steady_sample_gives_no_reason_for_doubt(steady):
    assert doubts.drifting(steady, "steps") == []
    assert doubts.spread_too_wide(steady, "steps") == []
    assert doubts.far_out(steady, "step") == []
    assert doubts.too_few_for_percentile(100, 99, "request") == []
    assert doubts.too_few_units(3, "repeat") == []


def test_steps_that_grow_are_said_to_by_how_much(steady):
    (said,) = doubts.drifting(steady + np.linspace(0, 2, 200), "decode steps")
    assert said.startswith("decode steps get 1")  # 18 % of the median of 11
    assert "% longer from the first to the last" in said
    (said,) = doubts.drifting(steady - np.linspace(0, 2, 200), "decode steps")
    assert "shorter" in said


def test_neighbours_that_resemble_each_other_are_no_trend():
    rng, said = np.random.default_rng(4), 0
    for _ in range(100):
        x = np.zeros(400)
        for i in range(1, 400):
            x[i] = 0.7 * x[i - 1] + rng.normal()
        said += bool(doubts.drifting(10 + x, "steps"))
    assert said <= 6  # of 100 at a level of 1 %; over single steps it would be about 20


def test_a_trend_that_is_sure_but_small_is_not_worth_a_word(steady):
    assert doubts.drifting(steady + np.linspace(0, 0.4, 200), "steps") == []


@pytest.mark.parametrize(("percentile", "enough"), [(99, 100), (90, 10), (50, 2)])
def test_a_percentile_takes_one_value_past_it(percentile, enough):
    assert doubts.too_few_for_percentile(enough, percentile, "request") == []
    (said,) = doubts.too_few_for_percentile(enough - 1, percentile, "request")
    assert f"take {enough}" in said


def test_a_few_far_steps_that_the_mean_leans_on_are_counted(steady):
    steady[[3, 50]] = 100
    (said,) = doubts.far_out(steady, "decode step")
    assert said.startswith("2 of 200 decode steps took 10.0 times the median or more")
    steady[[3, 50]] = 11.5
    assert doubts.far_out(steady, "decode step") == []


def test_a_spread_past_the_limit_is_named_with_it():
    (said,) = doubts.spread_too_wide([9, 10, 11], "trials")
    assert said == "trials vary by 10.0% (standard deviation over mean; limit 5%)"


def test_a_run_of_one_repeat_and_few_requests_says_both(tmp_path):
    work = Workload(batch=2, context=96, output=40)  # later steps of the simulation are slower
    said = doubts.of_run(study(write_run(tmp_path, small_spec(repeats=1, workload=work))))
    assert [sentence.split(":")[0] for sentence in said] == [
        "1 repeat",
        "p99 of 2 requests is little more than the largest",
        "decode steps get 26% longer from the first to the last",
    ]


def test_sampling_that_takes_its_time_is_said_with_its_share():
    taken = {"sampled": 10, "others": 90, "others_ms": 1.0}
    (said,) = doubts.sampled_heavily(Sampling(sampled_ms=1.5, **taken))
    assert said.startswith("sampling is about 5% of TPOT (1 in 10 decode steps")  # 5 of 105 ms
    assert doubts.sampled_heavily(Sampling(sampled_ms=1.05, **taken)) == []
    assert doubts.sampled_heavily(None) == []


def test_sampled_steps_are_no_outliers_of_the_others(tmp_path):
    work = Workload(batch=2, context=96, output=40)
    run = study(write_run(tmp_path, small_spec(repeats=1, workload=work), sample_every=8))
    steps = run.tables.steps
    far = (steps["kind"] == "decode") & (steps["method"] != "none")
    steps.loc[far, "end_ns"] += 20_000_000  # ten times a step
    assert any("decode steps took" in said for said in doubts.far_out(_ms(steps), "decode step"))
    assert not any("the median or more" in sentence for sentence in doubts.of_run(run))


def _ms(steps):
    own = steps[(steps["rank"] == 0) & (steps["kind"] == "decode")]
    return (own["end_ns"] - own["start_ns"]) / 1e6


def test_steps_that_resemble_their_neighbours_for_too_long_have_doubtful_intervals(tmp_path):
    work = Workload(batch=2, context=96, output=41)
    run = study(write_run(tmp_path, small_spec(repeats=1, workload=work)))
    assert not any("resemble" in sentence for sentence in doubts.of_run(run))
    steps = run.tables.steps
    slow = (steps["kind"] == "decode") & (steps["step"] // 8 % 2 == 0)  # eight slow, eight fast
    steps.loc[slow, "end_ns"] += 500_000
    (said,) = [sentence for sentence in doubts.of_run(run) if "resemble" in sentence]
    assert said.startswith("neighbouring blocks of steps still resemble each other")
    assert "perhaps too narrow" in units(run)["decode_step"].unit


def test_repeats_enough_are_not_doubted(tmp_path):
    said = doubts.of_run(study(write_run(tmp_path, small_spec(repeats=3))))
    assert said == ["p99 of 6 requests is little more than the largest: take 100"]
