"""Which run is exported, and what of it."""

import shutil

import pytest

from fapool.errors import StoreError
from fapool.store import Run
from tests.synthetic import write_run

DEADLINE_S = 30


def test_export_writes_the_report_and_lists_what_opens_it(workbench, profiles):
    run = write_run(profiles)
    workbench.export()
    files = workbench.wait(DEADLINE_S)
    assert files == [run.path / "report.html"]
    said = workbench.shelf.files.value
    for expected in (str(files[0]), "nsys profile", "--nproc-per-node=4", "spec.json"):
        assert expected in said


def test_what_opens_a_merged_trace_and_a_memory_snapshot_is_said(workbench, profiles):
    run = write_run(profiles)
    (run.path / "trace").mkdir(exist_ok=True)
    (run.path / "merged.json.gz").touch()
    (run.path / "memory").mkdir()
    (run.path / "memory" / "rank1.pickle").touch()
    workbench.export()
    workbench.wait(DEADLINE_S)
    said = workbench.shelf.files.value
    assert f"python -m fapool perfetto {run.path}" in said
    assert "pytorch.org/memory_viz" in said
    assert "rank1.pickle" in said


def test_export_of_nothing_or_of_a_deleted_run_says_what_to_do(workbench, profiles):
    with pytest.raises(StoreError, match="press Run"):
        workbench.export()
    run = write_run(profiles)
    workbench.breakdown(run.name)
    shutil.rmtree(run.path)
    with pytest.raises(StoreError, match="its folder is gone; tick another"):
        workbench.export()


def test_after_a_stopped_run_export_takes_the_newest_that_finished(workbench, profiles):
    finished, stopped = write_run(profiles), stopped_run(profiles)
    workbench.breakdown(stopped.name)
    workbench.export()
    assert workbench.wait(DEADLINE_S) == [finished.path / "report.html"]


def test_a_stopped_run_is_exported_without_a_report(workbench, profiles):
    stopped = stopped_run(profiles)
    (stopped.path / "trace").mkdir(exist_ok=True)
    (trace := stopped.path / "trace" / "rank0.1.pt.trace.json.gz").touch()
    workbench.breakdown(stopped.name)
    workbench.export()
    assert workbench.wait(DEADLINE_S) == [trace]
    assert "only a finished run has one; this one stopped" in workbench.shelf.files.value


def stopped_run(profiles) -> Run:
    status = (run := write_run(profiles)).status.model_copy(update={"state": "stopped"})
    (run.path / "status.json").write_text(status.model_dump_json())
    return run
