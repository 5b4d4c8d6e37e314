"""What sampling adds is said where it is not small against the change, and takes every p away."""

import pandas as pd
import pytest

from fapool.analysis.comparison.changes import changes
from fapool.analysis.comparison.disturbance import disturbance
from fapool.analysis.sampled import Sampling
from fapool.analysis.study import studies
from fapool.spec import Workload
from tests.synthetic import small_spec, write_run


def sampling(others_ms: float, added_ms: float) -> Sampling:
    steps = {"sampled": 10, "others": 10}
    return Sampling(**steps, sampled_ms=others_ms + added_ms, others_ms=others_ms)


def step(a_ms: float, b_ms: float) -> pd.Series:
    return pd.Series({"a_ms": a_ms, "b_ms": b_ms, "change_ms": b_ms - a_ms})


def test_a_change_that_sampling_turned_round_is_told_with_that_of_the_other_steps():
    said = disturbance(step(1.25, 1.38), (sampling(1.123, 0.13), sampling(0.723, 0.66)))
    assert "adds 0.13 ms to a step of A and 0.66 ms to one of B, more than the change" in said
    assert said.endswith("went from 1.123 to 0.723 ms (median), the other way")


def test_a_part_of_the_change_is_told_as_such_and_a_small_one_not_at_all():
    said = disturbance(step(1.0, 2.0), (sampling(0.9, 0.1), sampling(1.8, 0.2)))
    assert "0.1 ms to a step of A and 0.2 ms to one of B, 20% of the change" in said
    assert "the other way" not in said
    assert not disturbance(step(1.0, 2.0), (sampling(0.99, 0.01), sampling(1.98, 0.02)))


def test_of_runs_of_which_one_was_sampled_nothing_is_claimed_of_other_steps():
    said = disturbance(step(1.0, 1.1), (None, sampling(1.0, 0.1)))
    assert "sampling adds 0.1 ms to a step of B" in said
    assert "not sampled" not in said
    assert not disturbance(step(1.0, 1.1), (None, None))


@pytest.mark.parametrize(("slow", "tested"), [(1.01, False), (3.0, True)])
def test_what_sampling_outweighs_has_no_p(tmp_path, slow, tested):
    spec = small_spec(repeats=3, workload=Workload(batch=2, context=96, output=12))
    runs = [write_run(tmp_path, spec, sample_every=2, slow=s) for s in (1.0, slow)]
    for change in changes(*studies(*runs)):
        assert change.noun == "sampled decode step"
        assert change.tested == tested
        assert change.parts["p"].notna().any() == tested
