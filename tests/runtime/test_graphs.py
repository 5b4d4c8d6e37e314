"""Bodies of decode steps: called plainly, or captured once and replayed."""

from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch

from fapool.instrument.recorder import Recorder
from fapool.phases import Phase, Role
from fapool.runtime import graphs
from fapool.runtime.graphs import Graphs

CPU = torch.device("cpu")
LABELS = {"kind": "decode", "requests": 1, "tokens": 1, "leased": 0, "kv_tokens": 0}


def make_recorder(device: torch.device, **changes) -> Recorder:
    found = Recorder(rank=0, role=Role.BASE, device=device, **changes)
    found.begin(0)
    return found


def test_without_graphs_a_body_is_called_every_time():
    recorder, calls = make_recorder(CPU), []
    found = Graphs(CPU, recorder, enabled=False)
    for step in range(3):
        assert found.run("key", lambda: calls.append(0) or len(calls)) == step + 1
        recorder.end_step(step=step, **LABELS)
    found.close()
    _, steps = recorder.columns()
    assert set(steps["method"]) == {"host clock"}


class FakeGraph:
    """Counts its replays."""

    made: ClassVar[list] = []

    def __init__(self) -> None:
        self.replays, self.reset = 0, lambda: self.made.remove(self)
        self.made.append(self)

    def replay(self) -> None:
        self.replays += 1


@pytest.fixture
def no_device(monkeypatch) -> type[FakeGraph]:
    """Graphs that hold nothing, in the place of CUDA's."""
    monkeypatch.setattr(FakeGraph, "made", [])

    @contextmanager
    def capture(graph, **options):
        yield

    fake = SimpleNamespace(CUDAGraph=FakeGraph, graph=capture)
    fake.graph_pool_handle, fake.synchronize = lambda: None, lambda device=None: None
    monkeypatch.setattr(graphs, "torch", SimpleNamespace(cuda=fake))
    return FakeGraph


def play(found: Graphs, recorder: Recorder, keys: str) -> list[str]:
    """A decode step for each letter; how their spans are timed."""
    for step, key in enumerate(keys):
        assert found.run(key, lambda key=key: f"result of {key}") == f"result of {key}"
        recorder.end_step(step=step, **LABELS)
    return recorder.columns()[1]["method"]


def test_a_body_is_captured_once_for_each_key_plain_and_with_events(no_device):
    recorder = make_recorder(CPU, sample_every=2)
    found = Graphs(CPU, recorder, enabled=True)
    methods = play(found, recorder, "aababaaa")
    plain_a, events_a, plain_b, events_b = (graph.replays for graph in no_device.made)
    assert (plain_a, events_a) == (5, 1)
    assert (plain_b, events_b) == (1, 1)
    assert [step for step, method in enumerate(methods) if method != "none"] == [4, 6]


def test_steps_in_which_something_is_captured_are_not_sampled(no_device):
    recorder = make_recorder(CPU, sample_every=1)
    found = Graphs(CPU, recorder, enabled=True)
    methods = play(found, recorder, "aabba")
    assert methods == ["none", "graph events", "none", "graph events", "graph events"]


def test_no_graph_has_events_where_no_spans_are_wanted(no_device):
    recorder = make_recorder(CPU, enabled=False)
    found = Graphs(CPU, recorder, enabled=True)
    assert play(found, recorder, "aab") == ["none"] * 3
    assert len(no_device.made) == 2


def test_graphs_are_gone_when_closed_and_captured_again_when_needed(no_device):
    recorder = make_recorder(CPU)
    found = Graphs(CPU, recorder, enabled=True)
    play(found, recorder, "ab")
    found.close()
    assert no_device.made == []
    found.close()
    play(found, recorder, "a")
    assert len(no_device.made) == 2


def test_a_graph_captured_without_events_is_replayed_plainly_once_spans_are_wanted(no_device):
    recorder = make_recorder(CPU, enabled=False, sample_every=1)
    found = Graphs(CPU, recorder, enabled=True)
    play(found, recorder, "a")
    recorder.enabled = True
    assert play(found, recorder, "aa") == ["none"] * 3


def test_graphs_are_let_go_without_a_wait_for_the_device_when_a_run_fails(no_device):
    recorder, waits = make_recorder(CPU), []
    found = Graphs(CPU, recorder, enabled=True)
    play(found, recorder, "ab")
    graphs.torch.cuda.synchronize = lambda device=None: waits.append(device)
    with pytest.raises(ZeroDivisionError):
        try:
            raise ZeroDivisionError
        finally:
            found.close()
    assert (waits, no_device.made) == ([], [])
    play(found, recorder, "a")
    waits.clear()
    found.close()
    assert waits == [CPU]


def test_replays_are_named_in_a_trace_by_the_graph_that_was_captured(no_device, monkeypatch):
    recorder, named = make_recorder(CPU, sample_every=2), []
    monkeypatch.setattr(
        graphs, "replay_range", lambda number: named.append(number) or nullcontext()
    )
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: SimpleNamespace(cuda_stream=0))
    recorder.captures.wanted = True
    found = Graphs(CPU, recorder, enabled=True)
    play(found, recorder, "aab")
    assert named == []
    recorder.profiling = True
    play(found, recorder, "aaab")
    assert named == [0, 1, 0, 3]  # two a key, the second with events, on every other step
    assert [graph.sampled for graph in recorder.captures.graphs] == [False, True] * 2
    assert all("no driver" in graph.note or not graph.runs for graph in recorder.captures.graphs)


class OnGpu:
    """A body over one input and one counter, and what its steps gave."""

    def __init__(self, **changes) -> None:
        self.device = torch.device("cuda", torch.cuda.current_device())
        self.recorder = make_recorder(self.device, **changes)
        self.found = Graphs(self.device, self.recorder, enabled=True)
        self.x = torch.zeros(4, device=self.device)
        self.count = torch.zeros(1, device=self.device)

    def body(self, factor: int) -> torch.Tensor:
        with self.recorder.span(Phase.FFN, layer=factor):
            out = self.x * factor
        with self.recorder.span(Phase.OUTPUT, layer=factor):
            self.count += 1
            torch.cuda._sleep(200_000)
        return out

    def step(self, number: int, factor: int) -> list[float]:
        self.x.fill_(number)
        out = self.found.run(factor, lambda: self.body(factor), [self.count])
        values = out.clone()
        self.recorder.end_step(step=number, **LABELS)
        return values.tolist()


@pytest.mark.gpu(1)
def test_a_replay_reads_new_inputs_and_what_is_kept_counts_every_step_once():
    at = OnGpu(sample_every=3)
    for number, factor in enumerate((2, 2, 5, 2, 5, 5, 2)):
        assert at.step(number, factor) == [float(number * factor)] * 4
        assert at.count.item() == number + 1
    at.found.close()
    assert at.step(7, 2) == [14.0] * 4
    assert at.count.item() == 8
    at.found.close()


@pytest.mark.gpu(1)
def test_sampled_replays_give_the_spans_of_their_body():
    at = OnGpu(sample_every=2)
    for number in range(7):
        at.step(number, 2)
    events, steps = at.recorder.columns()
    sampled = [step for step, method in enumerate(steps["method"]) if method == "graph events"]
    assert sampled == [2, 4, 6]
    assert events["step"] == [2, 2, 4, 4, 6, 6]
    assert events["phase"] == ["ffn", "output"] * 3
    for step, start, end in zip(events["step"], events["start_ns"], events["end_ns"], strict=True):
        assert steps["start_ns"][step] <= start <= end <= steps["end_ns"][step]
    at.found.close()
