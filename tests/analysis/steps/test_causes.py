"""What is said of a run's causes, in the order in which one asks for them."""

from pathlib import Path

import pytest

from fapool.analysis.steps.causes import causes
from fapool.analysis.study import study
from fapool.spec import Static, Workload
from fapool.store import Run
from tests.synthetic import small_spec, write_run

GRAPHS = Path(__file__).parents[2] / "data/h100-graphs-fapool-1-1"


def test_waits_come_before_the_critical_path_and_what_it_would_be_without(tmp_path):
    said = causes(study(write_run(tmp_path))).words()
    assert len(said) == 5
    assert all(" waits " in line for line in said[:3])
    assert said[3].startswith(
        "critical path of a decode step, mean 2.242 ms: rank 3 attend_partial 38%"
    )
    assert said[4].startswith("it would take without attend_partial 1.399 ms")


def test_one_rank_waits_for_nobody_and_prefill_stands_in_where_nothing_is_decoded(tmp_path):
    work = Workload(batch=2, context=96, output=1)
    found = causes(study(write_run(tmp_path, small_spec(plan=Static(), workload=work))))
    assert found.kind == "prefill"
    assert found.stragglers.empty
    assert "critical path of a prefill step" in found.words()[0]


def test_the_ranks_of_a_run_of_graphs_wait_for_each_other_as_long_as_its_records_say():
    run = Run(GRAPHS)
    found = causes(study(run))
    events = run.table("events")
    decoding = events[events["step"] > 0]
    posts = {
        (post.channel, post.sequence): post.start_ns
        for post in decoding[decoding["phase"].isin(["send_query", "send_partials"])].itertuples()
    }
    waited = dict.fromkeys((0, 1), 0)
    for wait in decoding[decoding["phase"].isin(["wait_query", "wait_partials"])].itertuples():
        posted = posts[wait.channel, wait.sequence]
        waited[wait.rank] += max(0, min(posted, wait.end_ns) - wait.start_ns)
    steps = decoding["step"].nunique()
    told = found.stragglers.groupby(["rank", "awaited"])["ms"].sum()
    assert set(told.index) == {(0, 1), (1, 0)}
    for rank, ns in waited.items():
        assert told[rank].sum() == pytest.approx(ns / steps / 1e6, rel=0.01)
    assert found.words()[0].startswith("rank 1 waits 0.419 ms per decode step for rank 0 (")
