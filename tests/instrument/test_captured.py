"""Nodes of a graph that is captured, by the spans around them."""

import pytest
import torch

from fapool.analysis.deep.attribution import attribute
from fapool.instrument import captured
from fapool.instrument.captured import NOBODY, Captures, GraphNodes
from fapool.instrument.nodes import CapturedNodes, NodesUnknown, demangled
from fapool.instrument.recorder import Recorder
from fapool.instrument.spans import GraphSpans
from fapool.instrument.window import ProfilerWindow
from fapool.phases import Phase, Role
from fapool.runtime.graphs import Graphs
from fapool.store import RunFolder
from fapool.traces import read
from fapool.traces.graphs import graph_lines, graphs_name, read_graphs

FFN, SEND = (("ffn", 3, -1, "", -1, 0), ("send_query", 3, 1, ("0>1", "0>2"), 5, (8, 16)))


class Capture:
    """What a driver would say of a capture: the test puts nodes into it."""

    def __init__(self, monkeypatch) -> None:
        self.nodes: list[tuple[str, str]] = []
        self.broken = ""
        monkeypatch.setattr(captured, "CapturedNodes", lambda: self)
        stream = type("Stream", (), {"cuda_stream": 1})()
        monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)

    def add(self, *names: str) -> None:
        self.nodes += [("kernel", name) for name in names]

    def new(self, stream: int) -> list[tuple[str, str]]:
        if self.broken:
            raise NodesUnknown(self.broken)
        found, self.nodes = self.nodes, []
        return found


@pytest.fixture
def capture(monkeypatch) -> Capture:
    return Capture(monkeypatch)


def body(spans: GraphSpans, capture: Capture) -> None:
    capture.add("begin")
    with spans.span(FFN):
        capture.add("gemm")
        with spans.span(SEND):
            capture.add("ask", "put")
        capture.add("gelu")
    with spans.span(SEND):
        pass
    capture.add("end")
    spans.end()


def test_nodes_belong_to_the_innermost_span_around_their_capture(capture):
    found = GraphNodes(0, sampled=False)
    body(GraphSpans(None, found), capture)
    owned = [(labels, [name for _, name in nodes]) for labels, nodes in found.runs]
    assert owned == [
        (NOBODY, ["begin"]),
        (FFN, ["gemm"]),
        (SEND, ["ask", "put"]),
        (FFN, ["gelu"]),
        (NOBODY, ["end"]),
    ]


def test_what_is_written_of_a_graph_is_read_back(capture, tmp_path):
    found = GraphNodes(2, sampled=True)
    body(GraphSpans(None, found), capture)
    (tmp_path / "graphs.1.jsonl").write_bytes(graph_lines([found.as_json()]))
    graphs, notes = read_graphs(tmp_path, 1)
    graph = graphs[2]
    assert notes == []
    assert graph.sampled
    assert [name for _, name in graph.nodes] == ["begin", "gemm", "ask", "put", "gelu", "end"]
    assert graph.owner_of.tolist() == [0, 1, 2, 2, 3, 4]
    send = graph.owners[2]
    assert (send.phase, send.layer, send.micro_batch) == ("send_query", 3, 1)
    assert (send.channel, send.sequence, send.bytes) == ("0>1,0>2", 5, 24)


def test_a_driver_that_does_not_tell_leaves_a_note_and_the_capture_goes_on(capture):
    found = GraphNodes(0, sampled=False)
    capture.broken = "no cuGraphGetNodes"
    body(GraphSpans(None, found), capture)
    assert found.runs == []
    assert found.as_json()["note"] == "nodes are unknown: no cuGraphGetNodes"


@pytest.mark.parametrize("text", ["{", '{"graph": 1}', "[]"])
def test_a_broken_list_of_graphs_is_told(tmp_path, text):
    (tmp_path / "graphs.0.jsonl").write_text(text)
    graphs, notes = read_graphs(tmp_path, 0)
    assert graphs == {}
    assert "graphs.0.jsonl cannot be read" in notes[0]


def test_graphs_are_numbered_only_while_somebody_will_ask():
    captures = Captures()
    assert captures.new(sampled=False) is None
    captures.wanted = True
    assert [captures.new(sampled=sampled).number for sampled in (False, True)] == [0, 1]


def test_names_are_as_profilers_print_them():
    assert demangled("_ZN3fap4gemmILi128EEEvPf") == "void fap::gemm<128>(float*)"
    assert demangled("small_sum") == "small_sum"
    assert demangled("i") == "i"


@pytest.mark.gpu(1)
@pytest.mark.parametrize("sampled", [False, True])
def test_a_capture_s_nodes_are_counted_at_the_borders_of_spans(sampled):
    recorder = on_gpu()
    x = torch.ones(64, 64, device=recorder.device)
    x @ x
    nodes, graph = GraphNodes(0, sampled=sampled), torch.cuda.CUDAGraph()
    spans: list = []  # holds the events, which have to live until the capture has ended
    with (
        torch.cuda.graph(graph, capture_error_mode="thread_local"),
        recorder.capturing(spans if sampled else None, nodes),
    ):
        x += 1
        with recorder.span(Phase.FFN, layer=1):
            y = x * 2
            z = y + x
        with recorder.span(Phase.OUTPUT, layer=1):
            z.clone()
            torch.cuda._sleep(1000)
    assert nodes.note == ""
    counts = [(labels[0], len(own)) for labels, own in nodes.runs]
    assert counts == [("", 1), ("ffn", 2), ("output", 2)]
    names = [name for _, own in nodes.runs for kind, name in own if kind == "kernel"]
    assert any("spin" in name for name in names)
    assert all("elementwise" in name for name in names[:3])


@pytest.mark.gpu(1)
def test_nothing_is_captured_where_nothing_is_captured():
    with pytest.raises(NodesUnknown):
        CapturedNodes().new(torch.cuda.current_stream().cuda_stream)


def on_gpu(**changes) -> Recorder:
    device = torch.device("cuda", torch.cuda.current_device())
    found = Recorder(rank=0, role=Role.BASE, device=device, **changes)
    found.begin(0)
    return found


@pytest.mark.gpu(1)
def test_kernels_of_traced_replays_find_their_spans(tmp_path):
    recorder = on_gpu(sample_every=2)
    recorder.captures.wanted = True
    found = Graphs(recorder.device, recorder, enabled=True)
    x, side = torch.ones(1 << 20, device=recorder.device), torch.cuda.Stream()

    def body():
        with recorder.span(Phase.FFN, layer=0):
            out = x * 2
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                beside = x.sqrt()
        with recorder.span(Phase.OUTPUT, layer=1):
            out = out.exp()
            torch.cuda.current_stream().wait_stream(side)
            return out + beside

    labels = {"kind": "decode", "requests": 1, "tokens": 1, "leased": 0, "kv_tokens": 0}
    window = ProfilerWindow(RunFolder(tmp_path), 0, 1, recorder, 1, 4, stop_on_close=True)
    recorder.at_border = window.step_ends
    for step in range(5):
        window.step_begins(step)
        found.run("key", body)
        recorder.end_step(step=step, **labels)
    trace = read(window.close())
    found.close()
    (tmp_path / "x").mkdir()
    lines = graph_lines(graph.as_json() for graph in recorder.captures.graphs)
    (tmp_path / "x" / graphs_name(0)).write_bytes(lines)
    graphs, _ = read_graphs(tmp_path / "x", 0)
    kernels = attribute(trace, graphs)
    assert kernels.notes == []
    own = kernels.kernels[kernels.kernels["graph"] >= 0]
    assert (own["why"] == "").all()
    assert len(own) == 4 * 4
    assert sorted(own["sampled"].groupby(own["correlation"]).first()) == [False, False, True, True]
    phase = kernels.spans["phase"].to_numpy()[own["span"]]
    for name, expected in (("exp", "output"), ("sqrt", "ffn"), ("Mul", "ffn"), ("add", "output")):
        said = phase[own["name"].str.contains(name).to_numpy()]
        assert set(said) == {expected}, name
