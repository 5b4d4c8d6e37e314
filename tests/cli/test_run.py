"""`python -m fapool run` and `schema` as a user calls them, alone and under torchrun."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from fapool import spec as specs
from fapool.cli import run as run_command
from fapool.errors import SpecError
from fapool.forecast.memory import footprint
from fapool.spec import FAPool, RunSpec, Static, Workload
from fapool.store import Store

ROOT = Path(__file__).parents[2]
PATIENCE_S = 120


def make_spec(**changes) -> RunSpec:
    fields = {"model": "tiny", "plan": FAPool(base=1, pool=1, threshold=32), "device": "cpu"}
    fields |= {"workload": Workload(batch=2, context=40, output=3), "block": 16}
    return RunSpec(**(fields | {"prefill_chunk": 32, "warmup": 0} | changes))


@pytest.fixture
def written(tmp_path, profiles):
    """Writes a spec, or any text, to a file."""

    def write(spec: RunSpec | str) -> str:
        path = tmp_path / "spec.yaml"
        path.write_text(spec if isinstance(spec, str) else spec.to_yaml())
        return str(path)

    return write


def start(*arguments: str, ranks: int = 0, **changes: str) -> subprocess.Popen:
    torchrun = ["torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", "-m"]
    command = [sys.executable, "-m", *(torchrun if ranks else []), "fapool", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | changes
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def call(*arguments: str, ranks: int = 0) -> tuple[int, str, str]:
    process = start(*arguments, ranks=ranks)
    out, err = process.communicate(timeout=PATIENCE_S)
    return process.returncode, out, err


@pytest.mark.ranks
def test_torchrun_runs_a_spec_on_its_ranks_and_says_where_it_is(written, profiles):
    status, out, err = call("run", written(make_spec()), ranks=2)
    assert status == 0, err
    (run,) = Store(profiles).runs()
    assert run.status.state == "finished"
    assert run.correctness["passed"] is True
    assert out.splitlines() == [f"finished: {run.path}"]
    assert {log.name for log in (run.path / "ranks").glob("*.log")} == {"0.log", "1.log"}


@pytest.mark.ranks
def test_a_single_rank_needs_no_torchrun(written, profiles):
    status, out, err = call(
        "run", written(make_spec(plan=Static())), "--store", str(profiles / "b")
    )
    assert status == 0, err
    (run,) = Store(profiles / "b").runs()
    assert out.splitlines() == [f"finished: {run.path}"]


@pytest.mark.ranks
def test_a_spec_that_is_wrong_is_one_line_and_no_folder(written, profiles):
    wrong = make_spec().to_yaml().replace("threshold: 32", "threshold: 8")
    status, out, err = call("run", written(wrong), ranks=2)
    assert status != 0
    assert out == ""
    said = [line for line in err.splitlines() if line.startswith("error: ")]
    assert said
    assert all(line.startswith("error: plan.threshold = 8: ") for line in said)
    ours = re.search(r'File ".*/fapool/(?!\.venv)', err)
    assert ours is None  # torchrun's own traceback is not ours, wherever the project lies
    assert Store(profiles).runs() == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"plan": Static(tp=2)}, r"plan = 'Static\(2,1\)': .*torchrun --nproc-per-node 2"),
        ({"backend": "flash_attn", "device": "auto"}, r"backend = 'flash_attn': .*choose auto"),
        ({"model": "13b", "workload": Workload(context=10**6, output=1)}, "lower batch"),
    ],
)
def test_what_cannot_run_here_is_refused_before_there_is_a_folder(
    written, profiles, monkeypatch, change, says
):
    monkeypatch.delenv("RANK", raising=False)
    spec = make_spec(**({"plan": Static()} | change))
    with pytest.raises(SpecError, match=says):
        run_command.run_here(Path(written(spec)), Store(profiles))
    assert Store(profiles).runs() == []


@pytest.mark.parametrize(
    ("local", "own", "found"), [("2", None, 2), ("2", 3, 3), ("4", None, None), (None, None, None)]
)
def test_nodes_are_those_of_torchrun_unless_the_spec_says_them(
    profiles, monkeypatch, local, own, found
):
    if local:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", local)
    else:
        monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    merging = FAPool(base=1, pool=3, threshold=32, reduction="hierarchical")
    seen = []
    monkeypatch.setattr(run_command, "_check_here", lambda spec, *_: seen.append(spec))
    monkeypatch.setattr(run_command, "_shared", [0])
    for rank in ("4", "5"):  # beyond the plan: nothing is started
        monkeypatch.setenv("RANK", rank)
        run_command.run_spec(make_spec(plan=merging, ranks_per_node=own), Store(profiles))
        run_command.run_spec(make_spec(plan=Static(tp=2)), Store(profiles))
    assert [spec.ranks_per_node for spec in seen] == [found, None] * 2


def test_ranks_of_one_machine_share_its_memory(written, profiles, monkeypatch):
    spec = make_spec(plan=Static(tp=2))
    need = max(sum(rank.values()) for rank in footprint(spec))
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    here = {"capacity_bytes": 2 * need - 1}  # enough for one, not for two
    monkeypatch.setattr(run_command.rank_side, "describe", lambda rank, wanted: here)
    with pytest.raises(SpecError, match="rank 0 would need"):
        run_command.run_spec(spec, Store(profiles))
    assert Store(profiles).runs() == []


def test_ranks_that_are_started_again_share_a_folder_of_their_own(profiles, monkeypatch):
    address, store, spec = run_command.rank_side.open_store(), Store(profiles), make_spec()
    found = []
    for attempt in ("0", "1"):
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", attempt)
        for rank in (0, 1):  # each a fresh process, so its count of runs begins anew
            monkeypatch.setattr(run_command, "_shared", [0])
            found.append(run_command._share_folder(spec, store, rank, address).path)
    assert found[0] == found[1] != found[2] == found[3]


@pytest.mark.ranks
@pytest.mark.parametrize("rank", [0, 1])
def test_a_run_whose_rank_is_killed_says_which_and_never_claims_to_be_whole(
    written, profiles, rank
):
    work = Workload(batch=2, context=40, output=100_000)
    process = start("run", written(make_spec(workload=work)), ranks=2)
    try:
        victim = wait_until_measuring(profiles, rank)
        os.kill(victim, signal.SIGKILL)
        killed = time.monotonic()
        _, err = process.communicate(timeout=PATIENCE_S)
        assert time.monotonic() - killed < 30
    finally:
        for child in psutil.Process().children(recursive=True):
            child.kill()
        process.wait()
    assert process.returncode != 0
    assert "finished" not in err
    (run,) = Store(profiles).runs()
    assert run.status.state == "failed"
    assert (run.status.rank, run.status.reason) == (rank, "was killed")
    assert "check: " in run.status.log_tail or rank
    assert not (run.path / "steps.parquet").exists()


def wait_until_measuring(profiles: Path, rank: int) -> int:
    """Until the check has passed; the pid of `rank`."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        for log in profiles.glob("*/ranks/0.log"):
            if "check: " in log.read_text():
                time.sleep(0.5)
                return json.loads((log.parent / f"{rank}.born.json").read_bytes())["pid"]
        time.sleep(0.1)
    raise AssertionError("the run never got to its measured part")


def test_the_schema_names_every_field_of_a_spec():
    status, out, err = call("schema")
    assert status == 0, err
    schema = json.loads(out)
    assert set(schema["properties"]) == set(json.loads(make_spec().to_json()))
    names = ("Static", "FAPool", "Helix")
    plans = {schema["$defs"][name]["properties"]["kind"]["const"] for name in names}
    assert plans == {"static", "fapool", "helix"}


def test_a_spec_written_as_yaml_is_the_spec_that_is_read(written):
    spec = make_spec()
    assert specs.read(written(spec)) == spec
