"""What is said of a run's causes, in the order in which one asks for them."""

from fapool.analysis.steps.causes import causes
from fapool.analysis.study import study
from fapool.spec import Static, Workload
from tests.synthetic import small_spec, write_run


def test_waits_come_before_the_critical_path_and_what_it_would_be_without(tmp_path):
    said = causes(study(write_run(tmp_path))).words()
    assert len(said) == 5
    assert all(" waits " in line for line in said[:3])
    assert said[3].startswith("critical path of a decode step, 2.242 ms: rank 3 attend_partial 38%")
    assert said[4].startswith("it would take without attend_partial 1.399 ms")


def test_one_rank_waits_for_nobody_and_prefill_stands_in_where_nothing_is_decoded(tmp_path):
    work = Workload(batch=2, context=96, output=1)
    found = causes(study(write_run(tmp_path, small_spec(plan=Static(), workload=work))))
    assert found.kind == "prefill"
    assert found.stragglers.empty
    assert "critical path of a prefill step" in found.words()[0]
