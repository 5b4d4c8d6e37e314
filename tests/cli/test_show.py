"""What the terminal shows of runs."""

import io
import json
import re

import pytest
from rich.console import Console

from fapool.analysis.metrics import DEFINITIONS
from fapool.cli import show
from fapool.errors import StoreError
from fapool.spec import FAPool, Helix, Static, Workload
from fapool.store import Store
from fapool.workload import requests_of, write_synthetic
from tests.synthetic import small_spec, write_run


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=80, force_terminal=False)


def printed(console: Console) -> str:
    return console.file.getvalue()


def test_a_breakdown_adds_up_as_printed(profiles, console):
    show.show(write_run(profiles), console)
    rows = re.findall(r"^ ?\d \((?:base|pool)\) +(.+)$", printed(console), re.MULTILINE)
    assert len(rows) == 2 * 4  # prefill and decode
    for row in rows:
        *parts, wall, _ = [round(float(value) * 1000) for value in row.split()]
        assert sum(parts) == wall


def test_a_finished_run_shows_its_metrics_with_definitions(profiles, console):
    show.show(write_run(profiles), console)
    assert "tpot_mean" in printed(console)
    assert "reserved GPUs" in printed(console)
    assert "…" not in printed(console)


def test_a_finished_run_shows_its_samples_with_intervals_and_what_to_doubt(profiles, console):
    show.show(write_run(profiles, small_spec(repeats=3)), console)
    text = printed(console)
    assert "95 % intervals of the mean, over repeats" in text
    for name, num in (("TPOT", "6 requests"), ("TTFT", "6 requests"), ("decode step", "9 steps")):
        assert re.search(rf"^ {name} +{num} +\d\S+ +\S+ to \S+( +\d\S+){{3}} +[\d.]+%", text, re.M)
    assert "p99 of 6 requests is little more than the largest" in text


def test_a_run_that_failed_its_check_shows_no_metrics(profiles, console):
    show.show(write_run(profiles, passed=False), console)
    assert "no metrics" in printed(console)
    assert "tpot_mean" not in printed(console)


def test_the_error_of_the_check_has_two_digits(profiles, console):
    run = write_run(profiles)
    check = {"passed": True, "error": 0.007263293170635157, "tolerance": 0.03}
    (run.path / "correctness.json").write_text(json.dumps(check))
    show.show(run, console)
    assert "passed, error 0.0073 (tolerance 0.03)" in printed(console)


def test_a_failed_run_shows_the_rank_and_its_last_lines(profiles, console):
    folder = Store(profiles).create(small_spec())
    show.show(folder.fail(rank=2, reason="was killed", log_tail="[step 7] ready"), console)
    text = printed(console)
    assert "rank 2: was killed" in text
    assert "[step 7] ready" in text
    assert "check against one device: not done" in text


def test_the_list_names_every_run_whole(profiles, console):
    finished = write_run(profiles)
    Store(profiles).create(small_spec(plan=Static(tp=2)))
    show.runs(Store(profiles), console)
    text = printed(console)
    assert finished.name in text
    assert "passed" in text
    assert "started" in text
    assert "not done" in text


def test_a_name_as_long_as_the_demos_stands_in_one_line_of_80_columns(profiles, console):
    plan = FAPool(base=1, pool=3, threshold=64, base_attends=True)
    run = write_run(profiles, small_spec(plan=plan, name="demo"))
    assert len(run.name) == 44
    Store(profiles).create(small_spec(plan=Static(tp=2)))
    show.runs(Store(profiles), console)
    assert run.name in printed(console)


def test_an_empty_store_says_where_it_looked(profiles, console):
    show.runs(Store(profiles), console)
    assert f"no runs under {profiles}" in printed(console)


def test_a_comparison_prints_ratios_and_writes_a_report(profiles, console):
    runs = [write_run(profiles), write_run(profiles, small_spec(plan=Static(tp=4)))]
    table = show.compare(runs, report=profiles / "report.html", console=console)
    assert f"×{table.loc['tpot_mean', 'Static(4,1) / first']:.3f}" in printed(console)
    assert (profiles / "report.html").exists()


def test_what_differs_beside_the_plan_is_said_before_all_else(profiles, console):
    other = small_spec(workload=Workload(batch=2, context=90, output=4), device="cpu")
    show.compare([write_run(profiles), write_run(profiles, other)], console=console)
    first = printed(console).splitlines()[0]
    assert first.startswith("more than the plan differs")
    assert "workload.context 96 / 90" in first
    assert "device auto / cpu" in first
    assert "ran on GPU / CPU" in first


def test_nothing_is_said_where_only_plans_differ(profiles, console):
    runs = [write_run(profiles), write_run(profiles, small_spec(plan=Static(tp=4)))]
    show.compare(runs, console=console)
    assert "more than the plan" not in printed(console)


def test_a_comparison_prints_what_changed_in_a_step_and_its_parts_add_up(profiles, console):
    spec = small_spec(repeats=3)
    show.compare([write_run(profiles, spec), write_run(profiles, spec, slow=1.5)], console=console)
    text = printed(console)
    assert text.count("ms per decode step of a") == 2  # base and pool
    base = text.split("ms per decode step of a")[1]
    found = re.findall(r"(-?\d+\.\d{3}) +(-?\d+\.\d{3}) +(-?\d+\.\d{3}) +[-+]", base)
    rows = [[round(float(cell) * 1000) for cell in row] for row in found]
    assert len(rows) > 8
    for *parts, whole in zip(*rows, strict=True):
        assert sum(parts) == whole
    assert "…" not in text
    assert "all runs: p99 of 6 requests" in text


def test_a_run_without_spans_says_so_and_has_no_breakdown(profiles, console):
    bare = write_run(profiles, spans=False)
    show.show(bare, console)
    assert "no spans were recorded (capture.spans: false): no breakdown" in printed(console)
    assert not re.search("= wall|waits for|critical path of", printed(console))
    assert re.search(r"utilisation_base +% +–", printed(console))
    show.compare([write_run(profiles), bare], console=console)
    assert f"{bare.name}: no spans were recorded" in printed(console)
    assert "= step" not in printed(console)


def test_what_sampling_outweighs_is_told_above_the_phases_that_it_is_true_of(profiles, console):
    runs = [write_run(profiles, sample_every=2, slow=slow) for slow in (1, 1.01)]
    show.compare(runs, console=console)
    text = printed(console)
    assert text.index("beware: sampling adds 0.09 ms") < text.index("= step")
    assert "mean ms per sampled decode step of a base rank" in text


def test_a_metric_has_its_interval_and_p_where_there_are_repeats(profiles, console):
    runs = [write_run(profiles, small_spec(repeats=n), slow=slow) for n, slow in ((3, 1), (3, 2))]
    show.compare(runs, console=console, only=("tpot_mean", "tpot_p99"))
    (row,) = re.findall(r"^ tpot_mean .* to .*$", printed(console), re.MULTILINE)
    assert row.split()[-1] == "<0.001"


def test_a_run_that_cannot_be_compared_is_an_error(profiles, console):
    with pytest.raises(StoreError, match="failed its check"):
        show.compare([write_run(profiles, passed=False)], console=console)


def test_a_run_whose_status_makes_no_sense_is_listed_beside_the_others(profiles, console):
    good, bad = write_run(profiles), write_run(profiles)
    (bad.path / "status.json").write_text("{}")
    show.runs(Store(profiles), console)
    text = printed(console)
    assert re.search(rf"{good.name} .*finished", text)
    assert re.search(rf"{bad.name} .*unreadable", text)


def test_a_run_whose_status_makes_no_sense_shows_the_way_out(profiles, console):
    run = write_run(profiles)
    (run.path / "status.json").write_text("{}")
    show.show(Store(profiles).open(run.name), console)
    assert "is unreadable" in printed(console)
    assert "remove the folder" in printed(console)
    assert "None" not in printed(console)


def test_a_run_with_a_table_cut_short_is_an_error_that_names_it(profiles, console):
    run = write_run(profiles)
    (run.path / "events.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(StoreError, match=r"its events.parquet is cut short or damaged"):
        show.show(run, console)


def test_a_report_in_place_of_a_folder_is_an_error_with_a_way_out(profiles, console):
    with pytest.raises(StoreError, match="is a folder; name a file in it"):
        show.compare([write_run(profiles)], report=profiles, console=console)


def test_a_headline_holds_the_metrics_that_were_named_and_no_others(profiles, console):
    runs = [write_run(profiles), write_run(profiles, small_spec(plan=Static(tp=4)))]
    table = show.compare(runs, console=console, only=show.HEADLINE, changes=False)
    rows = re.findall(r"^ ([a-z]\w+)  ", printed(console), re.MULTILINE)
    assert [row for row in rows if row != "metric"] == list(show.HEADLINE)
    assert list(table.index) == list(DEFINITIONS)


def test_numbers_of_gpus_are_printed_without_a_ratio(profiles, console):
    show.compare([write_run(profiles), write_run(profiles, slow=2)], console=console)
    for name in ("gpus", "charged_gpus"):
        (row,) = re.findall(rf"^ {name} .*$", printed(console), re.MULTILINE)
        assert "×" not in row


def test_a_pools_step_borders_are_explained_where_there_is_a_pool(profiles, console):
    show.show(write_run(profiles), console)
    assert show.OWN_BORDERS in printed(console)
    show.show(write_run(profiles, small_spec(plan=Static(tp=4))), console)
    assert printed(console).count(show.OWN_BORDERS) == 1


def test_a_run_of_sampled_steps_says_which_share_and_what_sampling_took(profiles, console):
    show.show(write_run(profiles, sample_every=2), console)
    assert "1 in 2 decode steps sampled; median of sampled steps " in printed(console)


def test_figures_of_many_runs_are_not_cut_but_stand_in_a_second_table(profiles, console):
    joint = FAPool(base=2, pool=2, threshold=64, base_attends=True)
    plans = [joint, Static(tp=4), Static(tp=2), Helix(kvp=4), Helix(kvp=2, tp=2), Static()]
    runs = [write_run(profiles, small_spec(plan=plan)) for plan in plans]
    table = show.compare(runs, console=console, only=("tps",), changes=False)
    text = printed(console)
    heads = re.findall(r"FAPool|Static|Helix", text)
    assert heads == ["FAPool", "Static", "Static", "Helix", "FAPool", "Helix", "Static"]
    for plan in map(str, plans):
        assert f"{table.loc['tps', plan]:,.0f}" in text
    assert re.search(r"metric +unit +joint", text)


@pytest.mark.parametrize(("rows", "sample"), [(5, 5), (40, 32)])
def test_the_demo_takes_all_of_a_trace_that_is_shorter_than_its_sample(tmp_path, rows, sample):
    demo = pytest.importorskip("fapool.cli.demo", reason="the demo needs the lab extra")
    specs = demo.demo_specs(write_synthetic(tmp_path / "lengths.csv", rows=rows), 4)
    assert {len(requests_of(spec)) for spec in specs} == {sample}


def test_a_run_says_who_waited_for_whom_and_what_made_its_steps_so_long(profiles, console):
    show.show(write_run(profiles), console)
    text = printed(console)
    assert "rank 1 waits 0.844 ms per decode step for rank 3" in text
    assert "critical path of a decode step, mean 2.242 ms: rank 3 attend_partial 38%" in text


def test_a_run_without_an_environment_is_shown_with_all_else_that_it_left(profiles, console):
    run = write_run(profiles)
    (run.path / "environment.json").unlink()
    show.show(run, console)
    assert "tpot_p50" in printed(console)
