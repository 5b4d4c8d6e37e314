"""The paper's protocol as runs: which there are, and that plans get the same requests."""

import pytest

from fapool.errors import SpecError
from fapool.protocol import CATEGORIES, LONGEST_PROMPT, PAPER
from fapool.spec import RangeWorkload, RunSpec, Static, TraceWorkload, Workload
from fapool.workload import requests_of
from tests.synthetic import small_spec

PLAN = {"kind": "fapool", "base": 2, "pool": 2, "threshold": 4096}


def spec(**changes) -> RunSpec:
    return small_spec(
        **({"plan": PLAN, "workload": Workload(batch=8, context=9, output=16)} | changes)
    )


def test_the_categories_are_the_papers_and_leave_no_length_between_them():
    # Section 4.5: short 512-2048, medium 2048-8192, long 8192-32768, very long 32768 and more.
    ranges = list(CATEGORIES.values())
    assert [start for start, _ in ranges] == [512, 2048, 8192, 32768]
    assert [end for _, end in ranges] == [2048, 8192, 32768, LONGEST_PROMPT]


def test_as_published_there_are_three_trials_of_a_thousand_sequences_a_category():
    found = PAPER.specs(spec())
    assert len(found) == 4 * 3
    assert {run.workload.sample for run in found} == {1000}
    assert len({run.fingerprint for run in found}) == 12
    assert {run.threshold for run in found} == {4096}
    assert {(run.workload.batch, run.workload.output) for run in found} == {(8, 16)}
    for run in found:
        lengths = [request.context for request in requests_of(run)]
        start, end = CATEGORIES[PAPER.category_of(run)]
        assert start <= min(lengths) < start + (end - start) / 1000
        assert end - 1 - (end - start) / 1000 <= max(lengths) < end


def test_a_trial_of_any_plan_has_the_same_requests_and_no_two_trials_have():
    one, other = PAPER.specs(spec(), sequences=9), PAPER.specs(spec(plan=Static(tp=4)), sequences=9)
    for mine, theirs in zip(one, other, strict=True):
        assert requests_of(mine) == requests_of(theirs)
    drawn = {tuple(requests_of(run)) for run in one}
    assert len(drawn) == 12


def test_a_scale_shrinks_lengths_and_threshold_and_keeps_the_category():
    found = PAPER.specs(spec(), sequences=5, trials=1, scale=1 / 64)
    assert [PAPER.category_of(run) for run in found] == list(CATEGORIES)
    assert {run.threshold for run in found} == {64}
    assert max(request.context for request in requests_of(found[0])) <= 32


def test_other_workloads_are_not_the_protocols():
    assert PAPER.category_of(spec()) is None
    work = RangeWorkload(shortest=512, longest=2048, sample=1, output=1)
    assert PAPER.category_of(spec(workload=work)) is None  # a border belongs to the longer one


@pytest.mark.parametrize("field", ["sequences", "trials"])
def test_nothing_is_refused_by_its_name(field):
    with pytest.raises(SpecError, match=rf"^{field} = 0: at least one"):
        PAPER.specs(spec(), **{field: 0})


def test_a_trace_has_no_one_number_of_output_tokens(tmp_path):
    work = TraceWorkload(path=tmp_path / "a.csv", sample=1)
    with pytest.raises(SpecError, match=r"workload.kind = 'trace': its outputs differ"):
        PAPER.specs(spec(workload=work))
