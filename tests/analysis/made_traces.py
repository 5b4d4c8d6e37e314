"""Traces of made-up replays and launches: times in whole nanoseconds, written and read for real."""

from pathlib import Path
from typing import Any

import orjson

from fapool.traces import Trace, read
from fapool.traces.graphs import graph_lines, graphs_name

BASE_NS = 1_770_000_000_000_000_000
HOST = 100


class Made:
    """Collects the events of one rank's trace; `ns` are since `BASE_NS`."""

    def __init__(self, rank: int = 0, **about: Any) -> None:
        self.rank, self.about = rank, {"device": "cuda", "role": "base"} | about
        self.events: list[dict] = []
        self.graphs: list[dict] = []

    def add(self, cat: str, name: str, start: int, end: int, tid: int = HOST, **args) -> None:
        event = {"ph": "X", "cat": cat, "name": name, "pid": 1, "tid": tid, "args": args}
        self.events.append(event | {"ts": start / 1000, "dur": (end - start) / 1000})

    def step(self, number: int, start: int, end: int) -> None:
        self.add("user_annotation", f"ProfilerStep#{number}", start, end)

    def span(self, phase: str, start: int, end: int, category: str = "compute", **args) -> None:
        self.add("cpu_op", phase, start, end, category=category, **args)

    def launch(self, at: int, correlation: int, name: str = "cudaLaunchKernel") -> None:
        self.add("cuda_runtime", name, at, at + 1, correlation=correlation)

    def kernel(
        self, name: str, start: int, end: int, correlation: int, stream: int = 7, **args
    ) -> None:
        args |= {"stream": stream, "device": 0, "correlation": correlation}
        self.add("kernel", name, start, end, stream, **args)

    def replay(self, graph: int, at: int, correlation: int) -> None:
        self.add("cpu_op", "replay", at - 1, at + 2, category="replay", graph=graph)
        self.launch(at, correlation, "cudaGraphLaunch")

    def graph(self, number: int, runs: list[tuple], *, sampled: bool = False) -> None:
        """`runs`: (phase, layer, channel, sequence, names of kernels) each."""
        found = [
            {
                **{"phase": phase, "layer": layer, "micro_batch": -1, "channels": [channel]},
                **{"sequence": sequence, "bytes": [8], "nodes": [["kernel", n] for n in names]},
            }
            for phase, layer, channel, sequence, names in runs
        ]
        self.graphs.append({"graph": number, "sampled": sampled, "note": "", "runs": found})

    def read(self, folder: Path) -> Trace:
        """What the reader makes of it; its graphs lie beside it."""
        trace = {"schemaVersion": 1, "baseTimeNanoseconds": BASE_NS, "traceEvents": self.events}
        trace |= {"distributedInfo": {"rank": self.rank, "world_size": 2}, "fapool": self.about}
        path = folder / f"rank{self.rank}.{BASE_NS}.pt.trace.json"
        path.write_bytes(orjson.dumps(trace))
        (folder / graphs_name(self.rank)).write_bytes(graph_lines(self.graphs))
        return read(path)
