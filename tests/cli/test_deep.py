"""What a run's traces say is printed beside its live breakdown, and what they do not say, too."""

import gzip
import json
import re
import shutil
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from fapool.analysis.deep.attribution import NO_GRAPH
from fapool.analysis.deep.breakdown import deep
from fapool.analysis.fused import FUSED
from fapool.cli.analyze import analyze
from fapool.cli.deep import print_traced
from fapool.cli.show import show
from fapool.store import Run, Store
from fapool.traces import read_folder
from tests.analysis.activities.test_cut import cut
from tests.analysis.made_traces import Made
from tests.synthetic import write_run
from tests.test_rank import make_spec, run

GRAPHS = Path(__file__).parents[1] / "data/h100-graphs-fapool-1-1"
GPU_RUN = Path(__file__).parents[1] / "data/h200-fapool-1-1"


def printed(act, *arguments, **options) -> str:
    console = Console(record=True, width=100, file=StringIO())
    act(*arguments, console=console, **options)
    return console.export_text()


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Run:
    spec = make_spec(capture={"profile_steps": 2})
    folder = Store(tmp_path_factory.mktemp("profiles")).create(spec)
    return folder.finish(run(spec, folder))


def test_live_and_trace_stand_one_above_the_other_and_add_up(traced):
    text = printed(show, traced)
    rows = re.findall(r"(live|trace)((?: +\d+\.\d{3}){6}) *\n", text)
    assert [name for name, _ in rows] == ["live", "trace"]
    for _, numbers in rows:
        *parts, wall = (round(1000 * float(number)) for number in numbers.split())
        assert sum(parts) == wall
    assert "live and trace differ by" in text
    assert "host clock: a median step takes" in text


def test_a_run_without_traces_is_shown_as_before(profiles):
    assert "trace" not in printed(print_traced, write_run(profiles))


def test_traces_that_cannot_be_read_are_told_and_the_rest_is_shown(profiles):
    found = write_run(profiles)
    (found.path / "trace").mkdir(exist_ok=True)
    (found.path / "trace" / "rank0.1.pt.trace.json.gz").write_bytes(b"none")
    text = printed(show, found)
    assert "its traces cannot be broken down" in text
    assert "metrics" in text


def test_traces_of_ours_without_their_run_are_analysed_by_kernels_and_spans():
    text = printed(analyze, GPU_RUN)
    assert "by spans and kernels: ms per step, mean of 5 traced" in text
    assert "rank 0: 209 of 716 kernels have no span" in text
    assert "launched outside of all spans: ncclDevKernel_SendRecv" in text


def test_one_step_of_traces_of_ours_is_analysed_alone():
    text = printed(analyze, GPU_RUN, step=129)
    assert "by spans and kernels: ms per step, step 129" in text


def test_one_step_of_a_run_is_of_the_kind_that_the_run_knows(traced):
    decode = traced.table("traced_steps").query("kind == 'decode'")["step"].max()
    assert f"ms per decode, step {decode}" in printed(analyze, traced.path, step=int(decode))


def test_one_step_of_a_run_is_on_its_clock_and_lists_its_own_kernels(tmp_path):
    found = write_run(tmp_path)
    shutil.copytree(GPU_RUN / "trace", found.path / "trace", dirs_exist_ok=True)
    offsets = {0: 0, 1: -2_000_000}
    ranks = [
        {"rank": rank, "clock": {"profiler": {"offset_ns": ns, "uncertainty_ns": 1}}}
        for rank, ns in offsets.items()
    ]
    (found.path / "environment.json").write_text(json.dumps({"ranks": ranks}))
    whole = deep(read_folder(GPU_RUN).traces, None, offsets)
    text = printed(analyze, found.path, step=129)
    said = text[text.index("by spans and kernels") :]
    parts = re.findall(r"rank (\d) .*?((?: +\d+\.\d{3}){6}) *\n", said)
    for row in whole.parted.steps.query("step == 129").itertuples():
        own = dict(parts)[str(row.rank)].split()
        assert float(own[0]) == pytest.approx(row.compute_ns / 1e6, abs=2e-3)
        assert float(own[2]) == pytest.approx(row.synchronization_ns / 1e6, abs=2e-3)
    inside = whole.kernels.query("step == 129 and rank == 0")
    lost = (inside["why"] != "").sum()
    assert f"rank 0: {lost} of {len(inside)} kernels have no span" in said


def test_what_the_traces_could_not_match_and_a_rank_without_a_trace_are_said(tmp_path):
    made = Made()
    made.step(0, 0, 100)
    made.span("wait_partials", 5, 10, "communication", channel="1>0", sequence=3)
    made.launch(6, 6)
    made.kernel("collect", 20, 40, 6)
    made.read(tmp_path)
    text = " ".join(printed(analyze, tmp_path).split())
    assert "in the traces 1 of 1 exchanges lack a record: a wait for these alone counts" in text
    assert "no trace of rank 1: waits for it alone count as communication" in text


def test_notes_of_traces_of_ours_are_printed_once(tmp_path):
    found = write_run(tmp_path)
    shutil.copytree(GPU_RUN / "trace", found.path / "trace", dirs_exist_ok=True)
    for path in found.traces:
        whole = json.loads(gzip.decompress(path.read_bytes()))
        events = {"traceEvents": whole.pop("traceEvents")}
        path.write_bytes(gzip.compress(json.dumps(whole | events).removesuffix("]}").encode()))
    (found.path / "trace" / "none.pt.trace.json").write_text("{}")
    for options in ({}, {"step": 129}):
        text = " ".join(printed(analyze, found.path, **options).split())
        for note in ("the list of events is cut off", "none.pt.trace.json is skipped"):
            assert text.count(note) == 1
        assert "kernels have no span" in text


def test_names_that_speak_against_their_span_are_printed(tmp_path):
    made = Made()
    made.step(0, 0, 100)
    made.span("ffn", 5, 10)
    made.launch(6, 6)
    made.kernel("ncclDevKernel_SendRecv", 20, 40, 6)
    made.read(tmp_path)
    text = printed(analyze, tmp_path)
    assert "in ffn (compute), says communication: ncclDevKernel_SendRecv" in text


def test_a_run_of_graphs_says_who_waits_for_whom_and_how_live_and_trace_agree():
    text = printed(show, Run(GRAPHS))
    said = re.findall(r"rank (\d) waits (\d\.\d{3}) ms per decode step for rank (\d)", text)
    assert {(waits, awaited) for waits, _, awaited in said} == {("0", "1"), ("1", "0")}
    (worst,) = re.findall(r"live and trace differ by (\d\.\d\d) ?% of a step at most", text)
    assert float(worst) < 3
    said = [float(one) for one in re.findall(r"of two ranks agree within ([\d.]+) µs", text)]
    assert len(said) == 2  # the tables' clock, and that of the traces
    assert "times of the trace are on rank 0's clock" in text
    assert "replays that were of graphs with events: 4 of 8 on rank 0, 4 of 8 on rank 1" in text


@pytest.mark.parametrize(("share", "compared"), [(0.85, True), (0.08, False)])
def test_steps_of_a_trace_that_was_cut_off_are_not_held_against_the_live_level(
    tmp_path, share, compared
):
    shutil.copytree(GRAPHS, tmp_path, dirs_exist_ok=True)
    cut(tmp_path / "trace", share)
    text = printed(show, Run(tmp_path))
    assert "left out, as are any after them: other ranks' waits for it" in text
    assert ("live and trace are not compared" in text) != compared
    worst = re.findall(r"live and trace differ by (\d+\.\d\d) ?% of a step at most", text)
    assert all(float(one) < 3 for one in worst)
    assert len(worst) == compared
    assert ("traced decode steps that are not compared: 1" in text) == compared


def test_lost_lists_of_graphs_are_said_first_and_their_kernels_count_by_name(tmp_path):
    shutil.copytree(GRAPHS, tmp_path, dirs_exist_ok=True)
    for path in (tmp_path / "trace").glob("graphs.*"):
        path.unlink()
    text = printed(show, Run(tmp_path))
    said = text[text.index("kernels, ") - 40 :]
    assert "no list of their nodes in graphs.1.jsonl beside its trace" in said.replace("\n", " ")
    assert "live and trace differ" not in text
    assert "replays that were of graphs with events" not in text
    assert said.index("are of graphs that are not known") < said.index("are not compared")
    assert said.index("are not compared") < said.index("by spans and kernels: ms per decode")
    found = deep(read_folder(tmp_path / "trace").traces)
    lost = found.kernels[found.kernels["why"] == NO_GRAPH]
    talks = lost[lost["category"] == "communication"]
    assert set(talks["name"]) == {"ask", "answer", "collect", "queries"} & set(lost["name"])
    assert (found.parted.steps["communication_ns"] > 0).all()


def test_steps_whose_graphs_are_known_are_still_compared(tmp_path):
    shutil.copytree(GRAPHS, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "trace" / "graphs.1.jsonl"
    graphs = [json.loads(line) for line in path.read_text().splitlines()]
    kept = [graph for graph in graphs if not graph["sampled"]]
    path.write_text("".join(json.dumps(graph) + "\n" for graph in kept))
    text = printed(show, Run(tmp_path))
    assert "live and trace are not compared" in text  # sampled steps alone have live spans
    assert len(re.findall(r"rank \d: [\d,]+ of [\d,]+ kernels, .* are of graphs", text)) == 1


def test_prefill_and_decode_are_given_apart_where_a_run_tells_them(tmp_path):
    text = printed(analyze, GRAPHS, out=tmp_path / "found.json")
    assert "ms per prefill step, mean of 1 step, from kernels" in text
    assert "ms per decode step, mean of 8 steps, from kernels" in text
    written = json.loads((tmp_path / "found.json").read_text())["steps"]
    assert [row["kind"] for row in written if row["rank"] == 1] == ["prefill"] + 8 * ["decode"]
    assert "averaged together" not in text
    alone = printed(analyze, shutil.copytree(GRAPHS / "trace", tmp_path / "alone"))
    assert "ms per step, mean of 9 steps, from kernels" in alone
    assert "prefill and decode steps are averaged together" in alone


def test_kernels_that_exchange_and_name_no_group_are_said_to_count_as_computation():
    text = printed(analyze, GRAPHS)
    found = deep(read_folder(GRAPHS).traces).kernels
    for rank, own in found[found["name"].isin(FUSED)].groupby("rank"):
        ms = (own["end_ns"] - own["start_ns"]).sum() / 1e6
        assert f"rank {rank}: {len(own)} kernels that exchange and compute in one" in text
        assert f"{ms:.3f} ms with their waits, count as computation here" in text
    assert "exchange and compute in one" not in printed(analyze, GPU_RUN)
