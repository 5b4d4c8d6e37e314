"""Which files of a folder are traces, and whose."""

import shutil
from pathlib import Path

import pytest

from fapool.errors import ProfileFileError
from fapool.traces import read_folder
from fapool.traces.folder import trace_files
from tests.traces import forms
from tests.traces.forms import kernel

DATA = Path(__file__).parent.parent / "data" / "h200-fapool-1-1"
NO_RANK = {"schemaVersion": 1}


def write(path: Path, rank: int | None = None, start_ns: int = 10) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    head = NO_RANK if rank is None else {"distributedInfo": {"rank": rank, "world_size": 9}}
    return forms.write(path, forms.kineto([kernel(start_ns, start_ns + 1)], head))


def ranks(found) -> list[tuple[int, str]]:
    return [(trace.rank, trace.path.name) for trace in found.traces]


def test_the_rank_is_what_the_file_says_then_its_name_then_its_place(tmp_path):
    write(tmp_path / "a.json", 3)
    write(tmp_path / "rank_2.json.gz")
    write(tmp_path / "x.json")
    write(tmp_path / "y.json")
    found = read_folder(tmp_path)
    assert ranks(found) == [(0, "x.json"), (1, "y.json"), (2, "rank_2.json.gz"), (3, "a.json")]
    assert not found.notes
    assert [len(trace.notes) for trace in found.traces] == [1, 1, 0, 0]


def test_files_that_are_no_traces_are_skipped_and_said(tmp_path):
    write(tmp_path / "a.json", 0)
    (tmp_path / "spec.json").write_text('{"model": "tiny"}')
    (tmp_path / "empty.json.gz").write_bytes(b"")
    (tmp_path / ".5.scratch.json").write_text("hidden")
    found = read_folder(tmp_path)
    assert ranks(found) == [(0, "a.json")]
    assert len(found.notes) == 2
    assert found.notes[0].startswith("empty.json.gz is skipped: the file is empty")
    assert found.notes[1].startswith("spec.json is skipped: no trace")


def test_the_profilers_own_names_come_before_all_others(tmp_path):
    write(tmp_path / "trace" / "rank0.17.pt.trace.json.gz", 0)
    write(tmp_path / "trace" / "merged.json.gz", 1)
    write(tmp_path / "status.json", 2)
    assert ranks(read_folder(tmp_path)) == [(0, "rank0.17.pt.trace.json.gz")]


@pytest.mark.parametrize("given", [".", "trace"])
def test_a_runs_own_files_are_no_traces_and_what_to_set_is_said(tmp_path, given):
    run = tmp_path / "a-run"
    for name in ("merged.json.gz", "spec.json", "status.json", "trace/odd.json", "ranks/0.json"):
        write(run / name, 0)
    with pytest.raises(ProfileFileError, match=r"set capture\.profile_steps .*fapool show RUN"):
        read_folder(run / given)
    with pytest.raises(ProfileFileError, match="holds no traces: no file"):
        read_folder(tmp_path)
    write(run / "trace" / "rank1.17.pt.trace.json.gz", 1)
    assert ranks(read_folder(run / given)) == [(1, "rank1.17.pt.trace.json.gz")]


def test_traces_are_found_below_the_folder_too(tmp_path):
    path = write(tmp_path / "log" / "today" / "host_1.pt.trace.json", 0)
    assert trace_files(tmp_path) == [path]
    assert trace_files(path) == [path]


def test_of_two_windows_of_a_rank_the_later_one_is_read(tmp_path):
    write(tmp_path / "rank0.100.pt.trace.json", 0)
    write(tmp_path / "rank0.200.pt.trace.json", 0)
    found = read_folder(tmp_path)
    assert ranks(found) == [(0, "rank0.200.pt.trace.json")]
    assert found.notes == ["rank0.100.pt.trace.json is skipped: a later one is of its rank"]


def test_a_folder_that_is_missing_or_has_no_traces_is_an_error_that_names_it(tmp_path):
    with pytest.raises(ProfileFileError, match=r"gone.*no such folder"):
        read_folder(tmp_path / "gone")
    with pytest.raises(ProfileFileError, match="holds no traces: no file"):
        read_folder(tmp_path)
    (tmp_path / "odd.json").write_text("{}")
    with pytest.raises(ProfileFileError, match=r"odd\.json is skipped"):
        read_folder(tmp_path)


@pytest.mark.ranks
def test_several_processes_read_what_one_reads(tmp_path):
    shutil.copytree(DATA / "trace", tmp_path / "trace")
    (tmp_path / "trace" / "broken.pt.trace.json").write_text("")
    one, two = (read_folder(tmp_path, processes=processes) for processes in (1, 2))
    assert one.notes == two.notes
    assert len(one.traces) == 2
    for here, there in zip(one.traces, two.traces, strict=True):
        assert here == there
