"""Specs of the protocol are written so that they can be run in order, and judged afterwards."""

import io

import pytest
from rich.console import Console
from typer.testing import CliRunner

from fapool import spec as specs
from fapool.cli.main import app
from fapool.cli.protocol import judge, write_specs
from fapool.errors import SpecError
from fapool.protocol import PAPER
from fapool.spec import FAPool, Static, Workload
from tests.synthetic import small_spec, write_run


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=100, force_terminal=False)


@pytest.fixture
def given(tmp_path):
    """Two specs in files."""
    work = Workload(batch=2, context=9, output=4)
    paths = []
    for plan in (Static(tp=4), FAPool(base=2, pool=2, threshold=4096)):
        path = tmp_path / f"{plan.kind}.yaml"
        path.write_text(small_spec(plan=plan, workload=work, repeats=1).to_yaml())
        paths.append(path)
    return paths


def test_a_spec_is_written_for_every_plan_category_and_trial(tmp_path, given, console):
    written = write_specs(given, tmp_path / "runs", sequences=4, scale=1 / 64, console=console)
    found = [specs.read(path) for path in written]
    assert len(found) == 2 * 4 * 3
    assert [spec.workload.seed for spec in found] == sorted(spec.workload.seed for spec in found)
    assert [str(spec.plan) for spec in found[:2]] == ["Static(4,1)", "FAPool(2,2)"]
    assert "torchrun --nproc-per-node 4" in console.file.getvalue()


def test_a_folder_that_cannot_be_made_is_refused(tmp_path, given, console):
    (tmp_path / "mine").write_text("")
    with pytest.raises(SpecError, match=r"out = .*cannot be written"):
        write_specs(given, tmp_path / "mine", console=console)


def test_finished_runs_are_judged_with_what_a_scale_and_few_sequences_leave_unproved(
    profiles, tmp_path, given, console
):
    runs = [
        write_run(profiles, run, slow=1 + 0.001 * run.workload.seed)
        for path in given
        for run in PAPER.specs(specs.read(path), sequences=4, scale=1 / 64)
        if PAPER.category_of(run) == "short"
    ]
    (verdict,) = judge(runs, console)
    text = console.file.getvalue()
    assert verdict.category == "short"
    assert "short, sequences does not hold: 4 of 1,000: " in text
    assert "short, trials holds: 3 of 3" in text
    assert "shrunk to 0.015625 of the protocol's: nothing is proved" in text
    told = CliRunner().invoke(app, ["verdict", *(str(run.path) for run in runs)])
    assert told.exit_code == 0
    assert "short, trials holds" in told.stdout


def test_both_commands_say_what_they_do():
    for command, says in (("protocol", "Runs nothing"), ("verdict", "which conditions hold")):
        told = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"})
        assert says in told.stdout
