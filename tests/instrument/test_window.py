"""A profiler window writes what was chosen, named and annotated as the viewers expect."""

import gzip
import re
from collections.abc import Iterator

import orjson
import pytest
import torch
import torch.distributed as dist

from fapool.instrument.recorder import Recorder
from fapool.instrument.window import ProfilerWindow
from fapool.phases import Phase, Role
from fapool.store import Run, RunFolder, Store
from tests.synthetic import small_spec


@pytest.fixture
def folder(profiles) -> RunFolder:
    return Store(profiles).create(small_spec())


@pytest.fixture
def one_rank() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def profiled(folder: RunFolder, first: int, num: int, steps: int) -> tuple[ProfilerWindow, list]:
    """Some steps of a matmul each, and when spans were announced to the profiler."""
    recorder = Recorder(rank=0, role=Role.BASE, device=torch.device("cpu"), unix_offset_ns=9)
    window = ProfilerWindow(folder, 0, 1, recorder, first, num, about={"fingerprint": "abc"})
    x, profiling = torch.ones(64, 64), []
    for step in range(steps):
        window.step_begins(step)
        profiling.append(recorder.profiling)
        with recorder.span(Phase.SEND_QUERY, layer=2, channel="0>1", sequence=step, num_bytes=8):
            x @ x
        window.step_ends(step)
    assert not recorder.profiling or steps < first + num
    return window, profiling


def read(path) -> dict:
    return orjson.loads(gzip.decompress(path.read_bytes()))


def test_the_chosen_steps_are_in_the_trace_and_no_others(folder, one_rank):
    window, profiling = profiled(folder, first=2, num=3, steps=7)
    assert profiling == [False, False, True, True, True, False, False]
    events = read(window.close())["traceEvents"]
    steps = [e["name"] for e in events if e.get("name", "").startswith("ProfilerStep")]
    assert steps == ["ProfilerStep#2", "ProfilerStep#3", "ProfilerStep#4"]
    assert len([e for e in events if e.get("name") == "aten::matmul"]) == 3


def test_spans_carry_their_labels_into_the_trace(folder, one_rank):
    window, _ = profiled(folder, first=0, num=1, steps=1)
    events = read(window.close())["traceEvents"]
    (span,) = [e for e in events if e.get("name") == "send_query"]
    labels = {"layer": 2, "channel": "0>1", "sequence": 0, "bytes": 8, "category": "communication"}
    assert span["args"].items() >= labels.items()
    assert "stream" not in span["args"]


def test_a_trace_says_whose_it_is(folder, one_rank):
    window, _ = profiled(folder, first=0, num=1, steps=1)
    path = window.close()
    assert re.fullmatch(r"rank0\.\d{19}\.pt\.trace\.json\.gz", path.name)
    assert Run(folder.path).traces == [path]
    trace = read(path)
    info = trace["distributedInfo"]
    assert (info["rank"], info["world_size"], info["backend"]) == (0, 1, "gloo")
    assert trace["fapool"] == {"rank": 0, "unix_offset_ns": 9, "fingerprint": "abc"}


def test_without_a_process_group_the_rank_is_said_all_the_same(folder):
    window, _ = profiled(folder, first=0, num=1, steps=1)
    info = read(window.close())["distributedInfo"]
    assert (info["rank"], info["world_size"]) == (0, 1)


def test_a_run_that_stops_inside_the_window_leaves_the_steps_it_took(folder, one_rank):
    window, _ = profiled(folder, first=1, num=5, steps=3)
    events = read(window.close())["traceEvents"]
    steps = [e["name"] for e in events if e.get("name", "").startswith("ProfilerStep")]
    assert steps == ["ProfilerStep#1", "ProfilerStep#2"]
    assert window.close() is None


def test_a_window_that_is_stopped_by_its_end_alone_traces_what_follows_its_last_step(folder):
    recorder = Recorder(rank=0, role=Role.BASE, device=torch.device("cpu"))
    window = ProfilerWindow(folder, 0, 1, recorder, 0, 1, stop_on_close=True)
    window.step_begins(0)
    window.step_ends(0)
    assert recorder.profiling
    torch.ones(2, 2) @ torch.ones(2, 2)
    events = read(window.close())["traceEvents"]
    assert not recorder.profiling
    assert [e["name"] for e in events if "ProfilerStep" in e.get("name", "")] == ["ProfilerStep#0"]
    assert any(e.get("name") == "aten::matmul" for e in events)


def test_an_empty_window_writes_nothing(folder):
    window, profiling = profiled(folder, first=0, num=0, steps=2)
    assert not any(profiling)
    assert window.close() is None
    assert Run(folder.path).traces == []


def test_times_are_absolute_nanoseconds(folder, one_rank):
    window, _ = profiled(folder, first=0, num=2, steps=2)
    path = window.close()
    trace = read(path)
    started = int(path.name.split(".")[1])
    base = trace["baseTimeNanoseconds"]
    times = [base + 1000 * e["ts"] for e in trace["traceEvents"] if e.get("ph") == "X"]
    assert all(abs(time - started) < 10e9 for time in times)
