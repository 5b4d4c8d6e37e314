"""Live against deep: what is compared, and what profiling did to a step's length."""

from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from fapool.analysis.breakdown import PARTS
from fapool.analysis.deep.agreement import against, traced_run
from fapool.phases import SCHEMAS, TRACED
from fapool.store import Run
from tests.analysis.made_traces import BASE_NS, Made
from tests.synthetic import write_run

GRAPHS = Path(__file__).parents[2] / "data/h100-graphs-fapool-1-1"
NO_KERNELS = pd.DataFrame({"step": [], "why": []})


def steps(walls: list[int], parts: list[tuple], kind: str = "decode") -> SimpleNamespace:
    rows = [
        (0, number, kind, wall, *own)
        for number, (wall, own) in enumerate(zip(walls, parts, strict=True))
    ]
    return SimpleNamespace(
        steps=pd.DataFrame(rows, columns=["rank", "step", "kind", "wall_ns", *PARTS])
    )


def tables(lengths: list[tuple[str, int]], repeat: int, kind: str = "decode") -> SimpleNamespace:
    rows = [(repeat, 0, kind, method, 0, length) for method, length in lengths]
    names = ["repeat", "rank", "kind", "method", "start_ns", "end_ns"]
    return SimpleNamespace(steps=pd.DataFrame(rows, columns=names))


def test_differences_are_shares_of_the_live_step():
    live = steps([1000], [(500, 200, 100, 0, 200)])
    reached, parted = (
        steps([990], [(480, 200, 110, 0, 200)]),
        steps([990], [(400, 180, 110, 0, 300)]),
    )
    found = SimpleNamespace(reached=reached, parted=parted, kernels=NO_KERNELS)
    one = tables([("graph events", 1000)], TRACED)
    depths = against(live, found, one, tables([("graph events", 800)], 0))
    rows = depths.rows.set_index("part")
    assert rows["live_share"].tolist() == pytest.approx([0.02, 0, -0.01, 0, 0])
    assert rows["gap_share"].tolist() == pytest.approx([0.08, 0.02, 0, 0, -0.1])
    assert depths.worst == pytest.approx(0.02)


def test_prefill_steps_are_not_compared():
    live, found = steps([10], [(10, 0, 0, 0, 0)], "prefill"), steps([10], [(1, 0, 0, 0, 9)])
    both = SimpleNamespace(reached=found, parted=found, kernels=NO_KERNELS)
    depths = against(live, both, tables([("host clock", 10)], TRACED), tables([], 0))
    assert depths.rows.empty


def test_lengths_are_medians_of_steps_measured_in_the_same_way():
    traced = tables([("graph events", 6), ("none", 4), ("none", 2), ("none", 9)], TRACED)
    measured = tables([("graph events", 3), ("graph events", 5), ("none", 2), ("none", 2)], 0)
    nothing = steps([], [])
    both = SimpleNamespace(reached=nothing, parted=nothing, kernels=NO_KERNELS)
    lengths = against(nothing, both, traced, measured).lengths.set_index("method")
    assert lengths["traced_ms"].tolist() == pytest.approx([6e-6, 4e-6])
    assert lengths["measured_ms"].tolist() == pytest.approx([4e-6, 2e-6])
    assert lengths["ratio"].tolist() == pytest.approx([1.5, 2])


def test_a_run_that_kept_no_live_spans_of_its_traced_steps_has_its_traces_broken_down(profiles):
    run = write_run(profiles)
    folder = run.path / "trace"
    folder.mkdir(exist_ok=True)
    made = Made()
    made.step(2, 0, 100)
    made.span("ffn", 5, 20)
    made.launch(6, 1)
    made.kernel("gemm", 30, 60, 1)
    made.read(folder).path.rename(folder / f"rank0.{BASE_NS}.pt.trace.json.gz")
    found = traced_run(Run(run.path))
    assert found.live is None and found.depths is None
    (step,) = found.found.parted.steps.itertuples()
    assert (step.step, step.kind, step.role, step.compute_ns) == (2, "decode", "base", 30)


def test_tables_of_traced_steps_are_there_only_if_a_profiler_ran(profiles):
    run = write_run(profiles)
    assert not (run.path / "traced_steps.parquet").exists()
    assert {"traced_events", "traced_steps"} <= set(SCHEMAS)
    assert traced_run(run) is None


@pytest.fixture(scope="module")
def graphs():
    return traced_run(Run(GRAPHS))


def test_live_spans_of_graphs_differ_from_their_trace_by_less_than_3_percent_of_a_step(graphs):
    rows = graphs.depths.rows
    assert len(rows) == 2 * 4 * len(PARTS)  # ranks, every second one of 8 steps
    walls = Run(GRAPHS).table("traced_steps").set_index(["rank", "step"])
    for (rank, step), own in rows.groupby(["rank", "step"]):
        wall = walls.loc[(rank, step), "end_ns"] - walls.loc[(rank, step), "start_ns"]
        assert own["live_ns"].sum() == wall
        assert ((own["live_ns"] - own["reached_ns"]).abs() < 0.03 * wall).all()


def test_steps_of_graphs_sum_to_the_time_between_their_borders_at_both_depths(graphs):
    for depth in (graphs.found.parted, graphs.found.reached):
        assert (depth.steps[PARTS].sum(axis=1) == depth.steps["wall_ns"]).all()
        own = depth.steps.groupby("rank")["wall_ns"].agg(["size", "sum"])
        assert own["size"].tolist() == [9, 9]  # the prefill and 8 steps of decoding
    assert graphs.found.disagreements.empty
