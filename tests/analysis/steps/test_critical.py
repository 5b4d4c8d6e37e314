"""The longest chain of a step, and of the step without a phase, against trying all chains."""

import dataclasses
import itertools

import pandas as pd
import pytest
from hypothesis import given, settings

from fapool.analysis import exchanges
from fapool.analysis.load import load
from fapool.analysis.steps.critical import critical
from fapool.analysis.steps.graph import step_graph, step_graphs
from fapool.spec import Static
from tests.analysis.programs import nodes, programs, soup, tables
from tests.synthetic import small_spec, write_run

few = settings(max_examples=40)


def merged(chain: list[tuple[int, str, int]]) -> list[tuple[int, str, int]]:
    """Neighbours of one rank and phase as one; nothing that took no time."""
    groups = itertools.groupby((part for part in chain if part[2]), key=lambda part: part[:2])
    return [(*key, sum(ns for *_, ns in parts)) for key, parts in groups]


@few
@given(programs)
def test_the_critical_path_is_one_of_the_longest_chains(program):
    graph, spans = step_graph(tables(program), repeat=0, step=0), nodes(program)
    chains = [chain for span in spans for chain in span.chains()]
    longest = max(sum(ns for *_, ns in chain) for chain in chains)
    path = graph.path()
    assert graph.wall_ns == longest
    assert (path["start_ns"].to_numpy()[1:] == path["end_ns"].to_numpy()[:-1]).all()
    lengths = (path["end_ns"] - path["start_ns"]).tolist()
    found = merged(list(zip(path["rank"], path["phase"], lengths, strict=True)))
    ours = [merged(list(c)) for c in chains if sum(ns for *_, ns in c) == longest]
    assert found in ours


@few
@given(programs)
def test_a_step_without_a_phase_takes_what_its_longest_chain_takes_then(program):
    graph = step_graph(tables(program), repeat=0, step=0)
    assert graph.without(None) == graph.wall_ns
    for phase in graph.phases():
        assert graph.without(phase) == max(span.end() for span in nodes(program, phase))


@pytest.mark.parametrize("seed", range(12))
def test_whatever_the_records_hold_a_path_fills_its_step_and_a_replay_gives_it_back(seed):
    for graph in step_graphs(soup(seed), kind=None, most=9):
        path = graph.path()
        assert (path["end_ns"] - path["start_ns"]).sum() == graph.wall_ns
        assert graph.without(None) == graph.wall_ns
        assert all(graph.without(phase) <= graph.wall_ns for phase in graph.phases())


@pytest.mark.parametrize("seed", range(12))
def test_a_step_is_the_same_alone_and_beside_others(seed):
    """Events that lie in no chosen step are left out, but for partners in its exchanges."""
    tables = soup(seed)
    met = exchanges.match(tables.events)
    for graph in step_graphs(tables, kind=None, most=9, met=met):
        alone = step_graph(tables, repeat=0, step=graph.step)
        assert alone.path().equals(graph.path())
        for phase in (None, *graph.phases()):
            assert alone.without(phase) == graph.without(phase)


@pytest.fixture(scope="module")
def pooled(tmp_path_factory):
    return load(write_run(tmp_path_factory.mktemp("profiles")))


def test_the_path_of_a_simulated_step_is_the_one_that_was_simulated(pooled):
    found = critical(pooled)
    assert found.steps == 2 * 3
    assert found.path["ms"].sum() == pytest.approx(found.wall_ms)
    by_place = found.path.groupby(["rank", "phase"])["ms"].sum()
    # The slower base rank, 1, and its pool rank, 3; as in tests/synthetic.py, over three steps.
    later = [1 + 0.03 * 3 + 0.01 * step for step in (1, 2, 3)]
    assert by_place[3, "attend_partial"] == pytest.approx(2 * 0.380 * sum(later) / 3)
    assert by_place[3, "wait_query"] == pytest.approx(2 * 0.050)
    assert set(found.path["rank"]) == {1, 3}
    saved = found.without.set_index("phase")["saved_ms"]
    assert saved.index[0] == "attend_partial"
    assert saved["attend_partial"] == pytest.approx(by_place[3, "attend_partial"])
    assert saved["append_kv"] == 0  # done while the query was on its way


def test_a_rank_that_lacks_the_last_steps_stops_nothing(pooled):
    lacks = (pooled.steps["rank"] == 3) & (pooled.steps["step"] >= 2)
    tables = dataclasses.replace(pooled, steps=pooled.steps[~lacks])
    found = critical(tables)  # which asserts that a replay gives each step back
    assert found.steps == 2 * 3
    assert found.path["ms"].sum() == pytest.approx(found.wall_ms)
    path = step_graph(tables, repeat=0, step=2).path()
    assert 3 not in set(path["rank"])
    waits = path[(path["rank"] == 1) & (path["phase"] == "wait_partials")]
    assert waits["category"].unique()[0] == "synchronization"  # for a rank that is not there


def test_steps_follow_each_other_without_a_gap(pooled):
    graphs = list(step_graphs(pooled, kind=None, most=99))
    for before, after in itertools.pairwise(graphs):
        if before.repeat == after.repeat:
            assert before.start_ns + before.wall_ns == after.start_ns
    assert [(graph.repeat, graph.step) for graph in graphs] == [
        (repeat, step) for repeat in range(2) for step in range(4)
    ]


def test_waits_for_several_at_once_end_with_the_last_of_them():
    rows = [
        (1, "ffn", "compute", 0, 40, "", -1),
        (1, "send_partials", "communication", 40, 42, "1>0", 5),
        (2, "ffn", "compute", 0, 70, "", -1),
        (2, "send_partials", "communication", 70, 72, "2>0", 5),
        (0, "wait_partials", "communication", 3, 80, "1>0", 5),
        (0, "wait_partials", "communication", 3, 80, "2>0", 5),
    ]
    names = ["rank", "phase", "category", "start_ns", "end_ns", "channel", "sequence"]
    found = tables([])
    found.events = pd.DataFrame(rows, columns=names).assign(repeat=0, step=0, layer=0)
    found.steps = found.steps.assign(start_ns=0, end_ns=[80, 42, 72])
    graph = step_graph(found, repeat=0, step=0)
    path = graph.path()[["rank", "phase", "start_ns", "end_ns"]].to_numpy().tolist()
    assert path == [[2, "ffn", 0, 70], [0, "wait_partials", 70, 80]]
    assert graph.without("ffn") == 3 + 10


def test_without_spans_there_is_no_critical_path(tmp_path):
    found = load(write_run(tmp_path, small_spec(plan=Static())))
    assert critical(found, kind="no such kind") is None
    bare = dataclasses.replace(found, events=found.events.iloc[:0])
    assert critical(bare) is None
