"""Traces for tests: a list of events, in each form in which profilers write it."""

import gzip
import json
from pathlib import Path
from typing import Any

from fapool.traces import Trace

BASE_NS = 1_790_857_026_000_000_000
HEAD = {
    "schemaVersion": 1,
    "deviceProperties": [{"id": 0, "name": 'a { b } ], \\ "c"'}],
    "distributedInfo": {"backend": "nccl", "rank": 1, "world_size": 2},
    "baseTimeNanoseconds": BASE_NS,
}
TAIL = {"traceName": "/tmp/}, { ]"}


def us(ns: int) -> float:
    """Microseconds with three decimals, as json writes them; exact below 2**43."""
    return float(f"{ns // 1000}.{ns % 1000:03d}")


def event(name: str, category: str, start_ns: int, end_ns: int, /, **args: Any) -> dict[str, Any]:
    """A complete event on thread 7 of process 1."""
    times = {"ts": us(start_ns), "dur": us(end_ns - start_ns)}
    return {"ph": "X", "cat": category, "name": name, "pid": 1, "tid": 7, **times, "args": args}


def kernel(
    start_ns: int, end_ns: int, name: str = "gemm", stream: int = 7, /, **args: Any
) -> dict[str, Any]:
    """A kernel of device 0; `args` in Kineto's words go through `said`."""
    where = {"device": 0, "stream": stream}
    return event(name, "kernel", start_ns, end_ns, **where, **args)


def said(collective: str, ranks: list[int], **more: Any) -> dict[str, Any]:
    """What a kernel of NCCL carries."""
    return {
        "Collective name": collective,
        "Process Group Name": "0",
        "Process Group Ranks": str(ranks),
        "In msg nelems": 10,
        "Out msg nelems": 4,
        "dtype": "BFloat16",
        **more,
    }


def launch(correlation: int, start_ns: int, end_ns: int) -> dict[str, Any]:
    """The host's call that asked for a kernel."""
    return event("cudaLaunchKernel", "cuda_runtime", start_ns, end_ns, correlation=correlation)


def step(number: int, start_ns: int, end_ns: int) -> dict[str, Any]:
    """A step on the host."""
    return event(f"ProfilerStep#{number}", "user_annotation", start_ns, end_ns)


def kineto(events: list[dict], head: dict = HEAD, tail: dict = TAIL) -> str:
    """Kineto's own form: an event over several lines, borders at two blanks."""
    lines = ["{"]
    lines += [f'  "{name}": {json.dumps(value)},' for name, value in head.items()]
    lines.append('  "traceEvents": [')
    for number, one in enumerate(events):
        first = {name: value for name, value in one.items() if name != "args"}
        text = "  {\n    " + json.dumps(first)[1:-1]
        if "args" in one:
            text += ',\n    "args": {\n      ' + json.dumps(one["args"])[1:-1] + "\n    }"
        lines.append(text + "\n  }" + "," * (number + 1 < len(events)))
    lines.append("  ]," if tail else "  ]")
    lines.append(json.dumps(tail)[1:-1])
    return "\n".join([*lines, "}\n"])


def compact(events: list[dict]) -> str:
    """One line, no blanks."""
    return json.dumps(HEAD | {"traceEvents": events} | TAIL, separators=(",", ":"))


def events_first(events: list[dict]) -> str:
    """Indented by one blank, all else behind the events."""
    return json.dumps({"traceEvents": events} | HEAD | TAIL, indent=1)


def bare(events: list[dict]) -> str:
    """An array and nothing else."""
    return "\ufeff \n" + json.dumps(events, indent=4)


FORMS = (kineto, compact, events_first)


def write(path: Path, text: str) -> Path:
    """Write text, gzipped where the name says so."""
    data = text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def tables(trace: Trace) -> dict[str, list[dict]]:
    """All rows of all tables, times relative to the base."""
    names = ("kernels", "launches", "spans", "steps", "ops", "collectives")
    found = {name: getattr(trace, name).to_pylist() for name in names}
    for rows in found.values():
        for row in rows:
            row["start_ns"] -= trace.base_ns
            row["end_ns"] -= trace.base_ns
    return found
