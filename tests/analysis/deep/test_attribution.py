"""Kernels find the spans that launched them, in traces of GPUs and in made-up replays."""

import gzip
from pathlib import Path

import orjson
import pytest

from fapool.analysis.deep.attribution import NO_GRAPH, NO_LAUNCH, NO_SPAN, OUTSIDE, attribute
from fapool.phases import PER_STEP
from fapool.traces import read
from fapool.traces.graphs import read_graphs
from tests.analysis.made_traces import Made

GRAPHS = Path(__file__).parents[2] / "data/h100-graphs-fapool-1-1"
ON_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")
GPU_TRACES = sorted((Path(__file__).parents[2] / "data/h200-fapool-1-1/trace").glob("*.gz"))


def phase_by_search(events: list[dict]) -> dict[tuple, str]:
    """(correlation, start) of a device's activity -> phase of the shortest range of ours around
    its launch, "" for none: by looking at all of them."""
    spans = [e for e in events if "category" in e.get("args", {})]
    launches = {
        e["args"]["correlation"]: e
        for e in events
        if e.get("cat") in ("cuda_runtime", "cuda_driver")
    }
    found = {}
    for event in events:
        if event.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset"):
            launch = launches[event["args"]["correlation"]]
            around = [
                (span["dur"], span["name"])
                for span in spans
                if span["tid"] == launch["tid"]
                and span["ts"] <= launch["ts"] < span["ts"] + span["dur"]
            ]
            found[event["args"]["correlation"]] = min(around)[1] if around else ""
    return found


@pytest.mark.parametrize("path", GPU_TRACES, ids=["base", "pool"])
def test_every_kernel_of_a_gpu_trace_has_the_span_around_its_launch_or_a_reason(path):
    expected = phase_by_search(orjson.loads(gzip.decompress(path.read_bytes()))["traceEvents"])
    found = attribute(read(path))
    kernels = found.kernels
    assert len(kernels) == len(expected)
    for kernel in kernels.itertuples():
        phase = found.spans["phase"][kernel.span] if kernel.span >= 0 else ""
        assert phase == expected[kernel.correlation]
        assert kernel.why == ("" if phase else NO_SPAN)
    assert found.notes == []


RUNS = [
    ("", -1, "", -1, ["begin"]),
    ("ffn", 0, "", -1, ["gemm", "gelu"]),
    ("send_query", 1, "0>1", 5, ["ask"]),
    ("ffn", 1, "", -1, ["gemm"]),
]


def replayed(folder: Path, **changes):
    made = Made()
    made.graph(4, RUNS, sampled=True)
    made.step(30, 0, 100)
    made.step(31, 105, 200)
    made.span("plan_step", 5, 20, "management")
    made.launch(10, 1)
    made.kernel("copy", 12, 14, 1)
    for number, at in ((2, 40), (3, 140)):
        made.replay(4, at, number)
        for place, name in enumerate(("begin", "gemm", "gelu", "ask", "gemm")):
            if not (number == 3 and name == changes.get("without")):
                made.kernel(name, at + 5 * place, at + 5 * place + 3, number)
    trace = made.read(folder)
    graphs, notes = read_graphs(folder, 0)
    assert notes == []
    return attribute(trace, graphs)


def test_kernels_of_a_replay_have_the_spans_of_their_capture(tmp_path):
    found = replayed(tmp_path)
    kernels, spans = found.kernels, found.spans
    phases = [spans["phase"][row] if row >= 0 else "" for row in kernels["span"]]
    assert phases == ["plan_step", *2 * ["", "ffn", "ffn", "send_query", "ffn"]]
    layers = spans["layer"][kernels["span"][kernels["span"] >= 0]].tolist()
    assert layers == [-1, *2 * [0, 0, 1, 1]]
    assert kernels["why"].tolist() == ["", *2 * [OUTSIDE, "", "", "", ""]]
    assert kernels["graph"].tolist() == [-1, *10 * [4]]
    assert kernels["sampled"].tolist() == [False, *10 * [True]]
    assert kernels["order"].tolist() == list(range(11))


def test_exchanges_of_a_replay_are_numbered_by_its_step(tmp_path):
    found = replayed(tmp_path)
    sends = found.spans[found.spans["phase"] == "send_query"]
    assert sends["sequence"].tolist() == [30 * PER_STEP + 5, 31 * PER_STEP + 5]
    assert set(sends["category"]) == {"communication"}


def test_a_replay_that_lost_a_record_is_left_without_spans_and_the_other_is_not(tmp_path):
    found = replayed(tmp_path, without="gelu")
    whole, cut = found.kernels["why"][1:6], found.kernels["why"][6:]
    assert set(whole) == {OUTSIDE, ""}
    assert all("4 records where 5 nodes" in why for why in cut)
    assert any("4 records where 5 nodes" in note for note in found.notes)


def test_kernels_of_an_unknown_graph_and_without_a_launch_say_so(tmp_path):
    made = Made()
    made.step(0, 0, 100)
    made.span("ffn", 5, 90)
    made.replay(0, 10, 1)
    made.kernel("gemm", 20, 30, 1)
    made.kernel("gemm", 40, 50, 99)
    made.launch(60, 2, "cudaGraphLaunch")
    made.kernel("gemm", 61, 62, 2)
    found = attribute(made.read(tmp_path))
    assert found.kernels["why"].tolist() == [NO_GRAPH, NO_LAUNCH, NO_GRAPH]
    assert (found.kernels["span"] == -1).all()


@pytest.mark.parametrize("rank", [0, 1])
def test_every_kernel_of_every_replay_is_of_the_node_that_was_captured_in_its_place(rank):
    (path,) = (GRAPHS / "trace").glob(f"rank{rank}.*")
    graphs, notes = read_graphs(path.parent, rank)
    found = attribute(read(path), graphs)
    replayed = found.kernels[found.kernels["graph"] >= 0]
    raw = orjson.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    launches = [e for e in raw if "GraphLaunch" in e["name"]]
    ids = {e["args"]["correlation"] for e in launches}
    assert len(replayed) == sum(
        e.get("args", {}).get("correlation") in ids and e["cat"] in ON_DEVICE for e in raw
    )
    assert replayed["stream"].nunique() == 1  # so that the order of start is that of capture
    captured = {
        graph["graph"]: [(run["phase"], *node) for run in graph["runs"] for node in run["nodes"]]
        for line in (path.parent / f"graphs.{rank}.jsonl").read_bytes().splitlines()
        for graph in [orjson.loads(line)]
    }
    replays = replayed.sort_values("start_ns").groupby("correlation")
    assert len(replays) == len(launches) == 8
    for _, kernels in replays:
        nodes = captured[kernels["graph"].iloc[0]]
        phases = [found.spans["phase"][s] if s >= 0 else "" for s in kernels["span"]]
        assert phases == [phase for phase, *_ in nodes]
        for name, (phase, kind, node) in zip(kernels["name"], nodes, strict=True):
            assert kind != "kernel" or name == node, phase
    owned = replayed["span"] >= 0
    assert set(replayed.loc[owned, "why"]) == {""} and set(replayed.loc[~owned, "why"]) == {OUTSIDE}
    assert found.notes == notes == []
