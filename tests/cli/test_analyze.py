"""What the terminal shows of a folder of traces."""

import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from fapool.cli.analyze import analyze
from fapool.errors import ProfileFileError, SpecError
from tests.synthetic import write_run
from tests.traces import forms
from tests.traces.forms import kernel, step

ROOT = Path(__file__).parent.parent.parent
DATA = ROOT / "tests" / "data" / "h200-fapool-1-1"
PARTS = 5


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=80, force_terminal=False)


def printed(console: Console) -> str:
    return console.file.getvalue()


def rows(console: Console) -> list[list[float]]:
    found = re.findall(r"^ \d +([\d. ]+)$", printed(console), re.MULTILINE)
    return [[float(value) for value in row.split()] for row in found]


def test_the_parts_of_gpu_ranks_add_up_as_printed(console):
    analyze(DATA, console=console)
    assert len(rows(console)) == 2
    for *parts, wall, _ in rows(console):
        assert len(parts) == PARTS
        assert sum(round(part * 1000) for part in parts) == round(wall * 1000)
    text = printed(console)
    assert "mean of 5 steps, from kernels" in text
    assert "80 of 80 kernels of communication were matched across ranks" in text
    assert "…" not in text


def test_one_step_is_shown_alone_and_written_as_json(console, tmp_path):
    out = tmp_path / "found.json"
    analyze(DATA, step=128, out=out, console=console)
    assert "step 128, from kernels" in printed(console)
    written = json.loads(out.read_text())
    assert [(row["rank"], row["step"]) for row in written["steps"]] == [(0, 128), (1, 128)]
    for row, (*parts, wall, _) in zip(written["steps"], rows(console), strict=True):
        assert row["wall_ns"] / 1e6 == pytest.approx(wall, abs=1e-3)
        assert row["compute_ns"] / 1e6 == pytest.approx(parts[0], abs=1.1e-3)
    assert [trace["rank"] for trace in written["traces"]] == [0, 1]
    assert written["run"] is None


def test_a_step_that_is_not_there_is_an_error_that_says_which_are(console):
    with pytest.raises(SpecError, match="127 to 131"):
        analyze(DATA, step=5, console=console)


def test_a_run_of_ours_is_named(profiles, console):
    run = write_run(profiles)
    shutil.copytree(DATA / "trace", run.path / "trace", dirs_exist_ok=True)
    for folder in (run.path, run.path / "trace"):
        analyze(folder, console=console)
    assert printed(console).count(f"run {run.name}: {run.spec.plan}, finished") == 2


def test_the_clock_of_a_run_is_taken_and_told(profiles, console):
    run = write_run(profiles)
    shutil.copytree(DATA / "trace", run.path / "trace", dirs_exist_ok=True)
    clocks = [
        {"uncertainty_ns": 0, "host": {"uncertainty_ns": 2_000 * rank}, "notes": []}
        | {"profiler": {"uncertainty_ns": 500, "offset_ns": -9_000_000 * rank}}
        for rank in range(2)
    ]
    entries = [{"rank": rank, "clock": clock} for rank, clock in enumerate(clocks)]
    (run.path / "environment.json").write_text(json.dumps({"ranks": entries}))
    analyze(run.path / "trace", step=129, console=console)
    assert "the traces of two ranks agree within 3.0 µs" in printed(console)
    shifted = rows(console)[:2]
    analyze(DATA, step=129, console=console)
    assert shifted != rows(console)[-2:]  # 9 ms apart: nobody waits for whom it waited for


def test_what_is_missing_is_said(console, tmp_path):
    head = {"distributedInfo": {"rank": 1, "world_size": 3}}
    text = forms.kineto([step(4, 0, 90), kernel(10, 20), kernel(30, 40)], head)
    forms.write(tmp_path / "a.json", text[: text.rindex('"kernel"')])
    (tmp_path / "b.json").write_text("{}")
    analyze(tmp_path, console=console)
    text = printed(console)
    assert "no trace of rank 0, 2" in text
    assert "b.json is skipped: no trace" in text
    assert "rank 1: the list of events is cut off" in text


def test_an_out_file_that_cannot_be_written_is_an_error(console, tmp_path):
    with pytest.raises(SpecError, match="--json"):
        analyze(DATA, out=tmp_path / "no" / "such.json", console=console)


def test_a_folder_without_traces_is_an_error(console, tmp_path):
    with pytest.raises(ProfileFileError, match="holds no traces"):
        analyze(tmp_path, console=console)


def test_the_command_needs_no_torch_and_ends_a_mistake_in_one_line(tmp_path):
    program = "import sys; sys.modules['torch'] = None; from fapool.cli.main import main; main()"
    command = [sys.executable, "-c", program, "analyze"]
    same = {"cwd": ROOT, "capture_output": True, "text": True}
    good = subprocess.run([*command, str(DATA), "--step", "129"], **same)
    assert good.returncode == 0, good.stderr
    assert "step 129" in good.stdout
    bad = subprocess.run([*command, str(tmp_path / "gone")], **same)
    assert (bad.returncode, bad.stdout) == (2, "")
    assert re.fullmatch(r"error: folder = .*gone.*: there is no such folder\n", bad.stderr)
