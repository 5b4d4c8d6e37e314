"""A run as samples: their means are the run's metrics, their intervals are of independent units."""

import numpy as np
import pytest

from fapool.analysis.statistics.described import described
from fapool.analysis.study import study
from fapool.spec import Workload
from tests.synthetic import small_spec, write_run


def of(folder, repeats: int, output: int = 24, **fields):
    work = Workload(batch=2, context=96, output=output)
    found = study(write_run(folder, small_spec(repeats=repeats, workload=work), **fields))
    return found, {sample.name: sample for sample in described(found)}


@pytest.mark.parametrize("repeats", [1, 3])
def test_means_and_percentiles_are_the_metrics(tmp_path, repeats):
    found, samples = of(tmp_path, repeats)
    for name, metric in (("TPOT", "tpot"), ("TTFT", "ttft")):
        own = samples[name].found
        assert own.mean == pytest.approx(found.metrics[f"{metric}_mean"])
        assert own.p99 == pytest.approx(found.metrics[f"{metric}_p99"])
    assert samples["decode step"].found.p50 == pytest.approx(found.metrics["decode_step"])


def test_intervals_are_over_repeats_from_three_on_and_else_within_the_run(tmp_path):
    _, samples = of(tmp_path, 3)
    assert {sample.units for sample in samples.values()} == {"repeat"}
    _, samples = of(tmp_path, 1)
    assert samples["TPOT"].units == samples["decode step"].units == "block of 3 decode steps"
    assert samples["TTFT"].units == ""  # one wave
    assert np.isnan(samples["TTFT"].found.interval.low)
    for name in ("TPOT", "decode step"):
        own = samples[name].found
        assert own.interval.low < own.mean < own.interval.high


def test_sampled_steps_are_left_out_and_a_run_of_prompts_has_no_tpot(tmp_path):
    found, samples = of(tmp_path, 1, sample_every=2)
    assert samples["decode step, not sampled"].found.n == found.sampling.others
    assert set(of(tmp_path, 1, output=1)[1]) == {"TTFT"}
