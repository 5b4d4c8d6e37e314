"""The partition of traces: against brute force, on real traces of GPUs and CPUs, and HTA's."""

import gzip
import json
import os
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fapool.analysis.activities.breakdown import HIDDEN, PARTS, break_down
from fapool.traces import read, read_folder
from tests.traces import forms
from tests.traces.forms import event, kernel, launch, said, step

ROOT = Path(__file__).parents[3]
DATA = ROOT / "tests" / "data" / "h200-fapool-1-1" / "trace"
GRAPHS = ROOT / "tests" / "data" / "h100-graphs-fapool-1-1" / "trace"
DEADLINE_S = 90
COMPUTE, COMMUNICATION, SYNCHRONIZATION, COPIES, IDLE = PARTS

span = st.tuples(st.integers(0, 60), st.integers(0, 15))
ranks_of_kernels = st.lists(
    st.fixed_dictionaries(
        {
            "compute": st.lists(span, max_size=6),
            "collective": st.lists(span, min_size=3, max_size=3),
            "copy": st.lists(span, max_size=3),
        }
    ),
    min_size=1,
    max_size=3,
)
borders_of_steps = st.lists(st.integers(0, 80), min_size=2, max_size=4, unique=True).map(sorted)


def grid(spans) -> set[int]:
    return {instant for start, end in spans for instant in range(start, end)}


def events_of(kernels: dict, members: list[int], borders: list[int]) -> list[dict]:
    """Kernels in their host's steps: each launched at its start, the first of a step at its border.

    An empty memset marks the border, so that the step of the device begins there, too.
    """
    found = [step(n, a, b) for n, (a, b) in enumerate(pairwise(borders))]
    for number, border in enumerate(borders[:-1]):
        found += [launch(900 + number, border, border + 1)]
        found += [event("Memset", "gpu_memset", border, border, device=0, correlation=900 + number)]
    for start, length in kernels["compute"]:
        found.append(kernel(start, start + length))
    for number, (start, length) in enumerate(kernels["collective"]):
        carried = said("allreduce", members, Seq=number)
        found.append(kernel(start, start + length, "nccl", 20, **carried))
    for start, length in kernels["copy"]:
        found.append(event("Memcpy DtoD", "gpu_memcpy", start, start + length, device=0))
    return found


def expected_of(ranks: list[dict], rank: int, window: range) -> dict[str, int]:
    """Parts of one window by counting its nanoseconds."""
    own = ranks[rank]
    compute = grid((start, start + length) for start, length in own["compute"])
    copies = grid((start, start + length) for start, length in own["copy"])
    transfers, waits = set(), set()
    for number, (start, length) in enumerate(own["collective"]):
        arrival = max(other["collective"][number][0] for other in ranks)
        met = len(ranks) > 1 and arrival < start + length
        waits |= grid([(start, arrival)]) if met else set()
        transfers |= grid([(arrival if met else start, start + length)])
    parts: Counter[str] = Counter()
    for instant in window:
        kinds = (compute, transfers, waits, copies)
        first = next((n for n, kind in enumerate(kinds) if instant in kind), 4)
        parts[PARTS[first]] += 1
        parts[HIDDEN[0]] += instant in compute and instant in transfers
        waited = instant in waits and instant not in transfers
        parts[HIDDEN[1]] += instant in compute and waited
    return {name: parts[name] for name in (*PARTS, *HIDDEN)}


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ranks_of_kernels, borders_of_steps)
def test_parts_are_those_that_counting_every_nanosecond_finds(tmp_path, ranks, borders):
    traces = []
    for rank, kernels in enumerate(ranks):
        head = forms.HEAD | {"distributedInfo": {"rank": rank, "world_size": len(ranks)}}
        events = events_of(kernels, list(range(len(ranks))), borders)
        traces.append(read(forms.write(tmp_path / "a.json", forms.kineto(events, head))))
    found = break_down(traces).steps
    assert len(found) == len(ranks) * (len(borders) - 1)
    for row in found.to_dict("records"):
        start = borders[row["step"]]
        window = range(start, start + row["wall_ns"])
        if row["step"] + 2 < len(borders):
            assert window.stop == borders[row["step"] + 1]
        expected = expected_of(ranks, row["rank"], window)
        assert {name: row[name] for name in expected} == expected


def test_real_gpu_ranks_wait_for_each_other_and_every_step_adds_up():
    found = break_down(read_folder(DATA).traces)
    assert (found.meetings.communication, found.meetings.matched) == (80, 80)
    assert found.steps.groupby("rank").size().to_dict() == {0: 5, 1: 5}
    assert (found.steps[PARTS].sum(axis=1) == found.steps["wall_ns"]).all()
    assert (found.steps[[COMPUTE, COMMUNICATION, SYNCHRONIZATION, IDLE]] > 0).all(axis=None)
    # in decode the messages are small, and nearly all of the time in them is waiting
    decode = found.steps[found.steps["step"] > 127].sum()
    assert decode[SYNCHRONIZATION] > 10 * decode[COMMUNICATION]
    assert not found.notes


def test_our_spans_change_nothing_in_it(tmp_path):
    for path in DATA.iterdir():
        trace = json.loads(gzip.decompress(path.read_bytes()))
        trace.pop("fapool")
        kept = [one for one in trace["traceEvents"] if "category" not in one.get("args", {})]
        assert len(kept) < len(trace["traceEvents"])
        trace["traceEvents"] = kept
        # json writes the shortest text of a float, which is the one that was read
        forms.write(tmp_path / path.name, json.dumps(trace))
    foreign = read_folder(tmp_path)
    assert not any(trace.spans.num_rows for trace in foreign.traces)
    pd.testing.assert_frame_equal(
        break_down(foreign.traces).steps, break_down(read_folder(DATA).traces).steps
    )


def test_one_rank_alone_is_broken_down_and_told_what_it_lacks():
    (path,) = DATA.glob("rank0.*")
    found = break_down([read(path)])
    assert (found.steps[SYNCHRONIZATION] == 0).all()
    assert found.meetings.matched == 0
    assert any("40 kernels of communication met none" in note for note in found.notes)


def test_a_trace_without_any_activity_has_no_steps_and_says_why(tmp_path):
    empty = read(forms.write(tmp_path / "a.json", forms.kineto([])))
    found = break_down([empty])
    assert found.steps.empty
    assert any("nothing to break down" in note for note in found.notes)
    assert any("no events" in note for note in found.notes)


def test_names_and_places_outside_of_steps_are_said(tmp_path):
    events = [step(3, 0, 50), launch(1, 5, 6), kernel(10, 40, correlation=1)]
    events += [kernel(60, 90, "ncclKernel_AllReduce"), kernel(60, 70) | {"pid": 1}]
    events[-1]["args"]["device"] = 1
    notes = break_down([read(forms.write(tmp_path / "a.json", forms.compact(events)))]).notes
    assert any("1 kernels count as communication by their name alone" in note for note in notes)
    assert any("2 devices" in note for note in notes)
    assert any("0.000 ms of activity lies before or after" in note for note in notes)


def train(folder: Path, kind: str) -> Path:
    """Two ranks of a data-parallel program, under torch's profiler; where their traces are."""
    command = [sys.executable, str(ROOT / "tests" / "traces" / "ddp_program.py")]
    environment = os.environ | {"KINETO_LOG_LEVEL": "6", "OMP_NUM_THREADS": "1"}
    said_to_all = [str(folder / "store"), str(folder / "log"), kind]
    ranks = [
        subprocess.Popen([*command, str(rank), *said_to_all], env=environment) for rank in range(2)
    ]
    try:
        assert [rank.wait(DEADLINE_S) for rank in ranks] == [0, 0]
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    return folder / "log"


@pytest.mark.ranks
def test_a_data_parallel_program_on_cpus_is_broken_down(tmp_path):
    found = read_folder(train(tmp_path, "cpu"), ops=None)
    assert [(trace.rank, trace.world) for trace in found.traces] == [(0, 2), (1, 2)]
    assert not found.notes
    parted = break_down(found.traces)
    assert parted.steps["step"].tolist() == [1, 2, 3] * 2
    assert set(parted.steps["method"]) == {"host ops"}
    assert (parted.steps[[COMPUTE, COMMUNICATION]] > 0).all(axis=None)
    assert "ranks 0, 1: no kernels" in " ".join(parted.notes)


@pytest.mark.ranks
@pytest.mark.gpu(2)
@pytest.mark.filterwarnings("ignore:The inplace keyword")
def test_a_data_parallel_program_on_gpus_is_broken_down_as_hta_does(tmp_path, monkeypatch):
    monkeypatch.setenv("HTA_DISABLE_NS_ROUNDING", "1")
    folder = train(tmp_path, "cuda")
    parted = break_down(read_folder(folder).traces)
    assert set(parted.steps["method"]) == {"kernels"}
    assert parted.meetings.communication >= 2 * 3  # a bucket of gradients in each step
    assert parted.meetings.matched == parted.meetings.communication
    assert not any("by their name" in note for note in parted.notes)
    agreement = pytest.importorskip("benchmarks.trace_agreement")
    pytest.importorskip("hta")
    found = agreement.agreement(folder, agreement.theirs(folder))
    assert found["differences"] == []
    assert found["apart_percent"] < 0.1


@pytest.mark.ranks
@pytest.mark.filterwarnings("ignore:The inplace keyword")
@pytest.mark.parametrize("folder", [DATA, GRAPHS], ids=["eager", "graphs"])
def test_hta_finds_the_same_parts_of_gpu_traces(monkeypatch, folder):
    monkeypatch.setenv("HTA_DISABLE_NS_ROUNDING", "1")
    from benchmarks.trace_agreement import agreement, theirs

    found = agreement(folder, theirs(folder))
    # Copies from GPU to GPU carry our messages; to HTA they are of memory, and neither computes.
    assert all("Memcpy PtoP" in line for line in found["differences"])
    assert len(found["differences"]) == (2 if folder == GRAPHS else 0)
    assert found["apart_percent"] < 0.001
    assert all(rank["hta"]["compute"] > 0 for rank in found["ranks"].values())
