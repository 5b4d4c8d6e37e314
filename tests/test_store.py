"""A run is a folder that never claims more than it holds."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fapool.errors import StoreError
from fapool.phases import TABLES, TRACED_TABLES
from fapool.store import PARTIAL, WHOLE, Run, RunFolder, Store
from fapool.store.status import read_status
from tests.synthetic import small_spec, write_run

ROOT = Path(__file__).parent.parent


@pytest.fixture
def folder(profiles) -> RunFolder:
    return Store(profiles).create(small_spec())


def fill(folder: RunFolder) -> None:
    """All that a whole run holds, empty."""
    folder.write_json("environment.json", {})
    folder.write_json("correctness.json", {"passed": True})
    folder.merge_parts()


def step_rows(rank: int) -> dict:
    numbers = {name: [rank] for name in TABLES["steps"].names}
    return numbers | {"role": ["base"], "kind": ["decode"], "method": ["host clock"]}


def test_a_run_under_way_is_partial_by_name_and_by_status(folder):
    assert folder.path.name.endswith(PARTIAL)
    assert Run(folder.path).status.state == "started"


def test_a_finished_run_gets_its_own_name_and_all_of_its_tables(folder):
    fill(folder)
    run = folder.finish()
    assert not run.name.endswith(PARTIAL)
    assert run.status.state == "finished"
    assert run.status.ended_at is not None
    assert [run.table(name).empty for name in TABLES] == [True] * len(TABLES)
    assert run.spec == small_spec()


def test_tables_of_traced_steps_are_merged_where_some_rank_wrote_them(folder):
    fill(folder)
    for rank in (1, 0):
        numbers = {name: [rank] for name in TRACED_TABLES["traced_steps"].names}
        words = {"role": ["base"], "kind": ["decode"], "method": ["host clock"]}
        folder.write_part("traced_steps", rank, numbers | words)
    folder.merge_parts()
    assert Run(folder.path).table("traced_steps")["rank"].tolist() == [0, 1]
    with pytest.raises(StoreError, match="no table 'traced_events'"):
        Run(folder.path).table("traced_events")


@pytest.mark.parametrize("missing", WHOLE)
def test_a_run_that_lacks_something_cannot_finish(folder, missing):
    fill(folder)
    (folder.path / missing).unlink()
    with pytest.raises(StoreError, match=f"lacks {missing}"):
        folder.finish()
    assert folder.path.name.endswith(PARTIAL)
    assert Run(folder.path).status.state == "started"


def test_a_stopped_run_says_so(folder):
    fill(folder)
    folder.stop_file.touch()
    run = folder.finish("stopped")
    assert run.status.state == "stopped"
    assert not (run.path / "stop").exists()


def test_a_failed_run_names_the_rank_and_keeps_what_was_written(folder):
    folder.log(2).write_text("".join(f"line {number}\n" for number in range(50)))
    run = folder.fail(rank=2, reason="was killed", log_tail=folder.log_tail(2))
    status = Run(run.path).status
    assert (status.state, status.rank, status.reason) == ("failed", 2, "was killed")
    assert status.log_tail.splitlines()[-1] == "line 49"
    assert len(status.log_tail.splitlines()) == 20
    assert not run.name.endswith(PARTIAL)
    with pytest.raises(StoreError, match=r"no table 'steps' \(failed\)"):
        run.table("steps")


def test_a_run_whose_owner_was_killed_is_interrupted(profiles):
    program = (
        "import os, signal; from fapool.store import Store; from tests.synthetic import small_spec;"
        "Store().create(small_spec()); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False)
    (run,) = Store(profiles).runs()
    assert run.status.state == "interrupted"
    assert run.name.endswith(PARTIAL)


def test_a_pid_that_was_given_to_another_process_is_not_the_owner(folder):
    status = json.loads((folder.path / "status.json").read_text())
    folder.write_json("status.json", status | {"pid_started": status["pid_started"] - 3600})
    assert status["pid"] == os.getpid()
    assert Run(folder.path).status.state == "interrupted"


def test_a_run_on_another_host_is_not_judged(folder):
    status = json.loads((folder.path / "status.json").read_text())
    folder.write_json("status.json", status | {"host": "elsewhere", "pid_started": 0.0})
    assert Run(folder.path).status.state == "started"


def test_a_write_that_breaks_off_leaves_the_old_file(folder, monkeypatch):
    folder.write_json("environment.json", {"old": True})

    def breaks_off(path: Path, data: bytes) -> int:
        with path.open("wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "write_bytes", breaks_off)
    with pytest.raises(OSError, match="no space"):
        folder.write_json("environment.json", {"new": "x" * 100})
    assert Run(folder.path).environment == {"old": True}


def test_the_environment_is_empty_until_the_ranks_have_recorded_it(folder):
    assert folder.environment == {}
    folder.write_json("environment.json", {"ranks": [{"rank": 0}]})
    assert folder.environment == {"ranks": [{"rank": 0}]} == Run(folder.path).environment


@pytest.mark.parametrize(
    ("recorded", "ranks"),
    [({}, []), ({"ranks": 2}, []), ({"ranks": ["?", {"rank": 1}]}, [{"rank": 1}])],
)
def test_what_ranks_recorded_of_themselves_is_read_as_far_as_it_is_usable(folder, recorded, ranks):
    folder.write_json("environment.json", recorded)
    assert Run(folder.path).ranks == ranks


def test_parts_are_joined_in_order_of_rank(folder):
    for rank in (10, 2, 0):
        folder.write_part("steps", rank, step_rows(rank))
    fill(folder)
    run = folder.finish()
    assert run.table("steps")["rank"].tolist() == [0, 2, 10]
    assert not (run.path / "parts").exists()


@pytest.mark.parametrize("wrong", [{"role": [None]}, {"rank": ["one"]}])
def test_a_part_that_is_not_of_its_schema_is_refused(folder, wrong):
    with pytest.raises((pa.ArrowException, ValueError, KeyError)):
        columns = step_rows(0) | wrong
        folder.write_part("steps", 0, columns)


def test_the_earliest_word_of_failure_is_the_cause(folder):
    assert folder.first_failure() is None
    folder.note_failure(3, "raised ValueError")
    folder.note_failure(0, "lost rank 3")
    assert folder.first_failure() == (3, "raised ValueError")


def test_two_runs_in_one_second_have_two_folders(profiles):
    store = Store(profiles)
    assert len({store.create(small_spec()).path for _ in range(3)}) == 3


def test_runs_are_listed_and_other_folders_passed_over(profiles):
    run = write_run(profiles)
    (profiles / "notes").mkdir()
    (profiles / "README.md").write_text("not a run")
    assert [found.name for found in Store(profiles).runs()] == [run.name]


def test_a_run_opens_by_name_by_path_and_while_partial(profiles, folder):
    store, name = Store(profiles), folder.path.name.removesuffix(PARTIAL)
    assert store.open(name).path == folder.path
    assert store.open(folder.path).path == folder.path
    run = write_run(profiles)
    assert store.open(run.name).path == store.open(run.path).path == run.path


def test_a_run_that_is_not_there_is_an_error_that_says_where(profiles):
    with pytest.raises(StoreError, match="no run 'nothing' under"):
        Store(profiles).open("nothing")
    with pytest.raises(StoreError, match="not a run folder"):
        Run(profiles)


def test_a_store_that_is_not_there_yet_is_empty(tmp_path):
    assert Store(tmp_path / "later").runs() == []


def test_the_store_is_found_by_argument_then_by_the_environment(profiles, tmp_path):
    assert Store().root == profiles
    assert Store(tmp_path).root == tmp_path


def test_traces_come_in_order_of_rank(profiles, folder):
    for rank in (10, 2):
        folder.trace(rank, 1_770_000_000_000_000_000).write_bytes(b"")
    fill(folder)
    assert [path.name.split(".")[0] for path in folder.finish().traces] == ["rank2", "rank10"]


BAD_STATUS = {
    "empty object": b"{}",
    "a newer version's field": None,  # made from a good one
    "not JSON": b"\x00 half a fi",
    "a list": b"[]",
    "empty file": b"",
}


@pytest.mark.parametrize("kind", BAD_STATUS)
def test_a_status_that_makes_no_sense_hides_no_other_run(profiles, kind):
    good, bad = write_run(profiles), write_run(profiles)
    status = json.loads((bad.path / "status.json").read_text())
    text = BAD_STATUS[kind] or json.dumps(status | {"mood": "bright"}).encode()
    (bad.path / "status.json").write_bytes(text)
    states = {run.name: run.status.state for run in Store(profiles).runs()}
    assert states == {good.name: "finished", bad.name: "unreadable"}
    with pytest.raises(StoreError, match=f"{bad.name}: its status.json cannot be read"):
        read_status(bad.path)
    assert "or remove the folder" in Run(bad.path).status.reason


@pytest.mark.parametrize("table", TABLES)
def test_a_table_that_is_cut_short_is_named(profiles, table):
    run = write_run(profiles)
    whole = (run.path / f"{table}.parquet").read_bytes()
    (run.path / f"{table}.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StoreError, match=rf"its {table}.parquet is cut short or damaged"):
        run.table(table)


def test_a_table_of_other_columns_is_refused(profiles):
    run = write_run(profiles)
    lean = pq.read_table(run.path / "steps.parquet").drop_columns(["leased"])
    pq.write_table(lean, run.path / "steps.parquet")
    with pytest.raises(StoreError, match="lacks leased"):
        run.table("steps")


@pytest.mark.parametrize("text", [b"{", b"[1]", b"\xff"])
def test_json_that_is_damaged_is_named(profiles, text):
    run = write_run(profiles)
    (run.path / "correctness.json").write_bytes(text)
    with pytest.raises(StoreError, match=r"its correctness.json is cut short or damaged"):
        _ = run.correctness


def test_a_store_that_is_a_file_says_to_choose_another(tmp_path):
    store = Store(tmp_path / "afile")
    store.root.write_text("mine")
    for act in (store.runs, store.prepare, lambda: store.create(small_spec())):
        with pytest.raises(StoreError, match="afile is not a folder; choose another with --store"):
            act()
    assert store.root.read_text() == "mine"


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc, which nobody may write")
@pytest.mark.parametrize(("root", "act"), [("/proc", "written"), ("/proc/runs", "made")])
def test_a_store_that_cannot_be_written_says_so(root, act):
    store = Store(root)
    for use in (store.prepare, lambda: store.create(small_spec())):
        with pytest.raises(StoreError, match=rf"the store {root} cannot be {act}"):
            use()


def test_a_store_is_made_when_it_is_prepared_and_stays_empty(tmp_path):
    store = Store(tmp_path / "deep" / "runs")
    store.prepare()
    assert list(store.root.iterdir()) == []


def test_a_name_without_a_last_part_is_no_run(profiles):
    with pytest.raises(StoreError, match="no run '/'"):
        Store(profiles).open("/")
