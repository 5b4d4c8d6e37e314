"""One trace of all ranks on one clock, from a run's tables: Chrome JSON, for Perfetto.

process "rank 0 · base"
  thread "steps"            a slice a step
  thread "spans"            a slice a span; where two overlap without nesting, the later one
  thread "spans, also"      moves down, for Perfetto drops such a pair on one thread
  counters                  memory by owner, leases
arrows                      from each send_* to the wait_* of the same exchange
"""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Iterator
from typing import Any

import orjson
import pyarrow.parquet as pq

from fapool.store import RunFolder

NAME = "trace/merged.json.gz"
STEPS_THREAD, FIRST_SPANS_THREAD = 0, 1

Row = dict[str, Any]


def write_merged(folder: RunFolder) -> None:
    """Write `trace/merged.json.gz` from the tables of a folder whose parts were merged.

    `ts` and `dur` are microseconds to the nanosecond; `baseTimeNanoseconds` is the Unix time of 0.
    The same tables give the same bytes. `otherData` says how well the ranks' clocks agree.
    """
    spans, steps, memory = (_rows(folder, name) for name in ("events", "steps", "memory"))
    starts = [row["start_ns"] for row in (*spans, *steps)] + [row["time_ns"] for row in memory]
    base = min(starts, default=0)
    place_on_threads(spans)
    ranks = sorted({row["rank"] for row in (*spans, *steps, *memory)})
    roles = {row["rank"]: row["role"] for row in steps}
    parts: list[Iterable[Row]] = [_names(rank, roles.get(rank), spans) for rank in ranks]
    parts += [_step_slices(steps, base), _span_slices(spans, base), _arrows(spans, base)]
    parts += [_memory_counters(memory, base), _lease_counters(steps, base)]
    events = b",\n".join(orjson.dumps(event) for part in parts for event in part)
    stated = orjson.dumps({"clock": _clock(folder)}).decode()
    head = f'{{"baseTimeNanoseconds":{base},"displayTimeUnit":"ms","otherData":{stated},'
    head += '"traceEvents":[\n'
    data = head.encode() + events + b"\n]}\n"
    folder.write_bytes(NAME, gzip.compress(data, compresslevel=5, mtime=0))


def _clock(folder: RunFolder) -> Row:
    environment = folder.path / "environment.json"
    return folder.read_json(environment.name).get("clock", {}) if environment.exists() else {}


def place_on_threads(spans: list[Row]) -> None:
    """Add `thread` to spans in order of start, so that those of one thread nest or are disjoint."""
    open_ends: dict[tuple[int, int], list[int]] = {}  # (rank, thread) -> ends, innermost last
    for span in spans:
        thread = FIRST_SPANS_THREAD
        while not _fits(open_ends.setdefault((span["rank"], thread), []), span):
            thread += 1
        open_ends[span["rank"], thread].append(span["end_ns"])
        span["thread"] = thread


def _fits(ends: list[int], span: Row) -> bool:
    while ends and ends[-1] <= span["start_ns"]:
        ends.pop()
    return not ends or span["end_ns"] <= ends[-1]


def _rows(folder: RunFolder, table: str) -> list[Row]:
    rows = pq.read_table(folder.path / f"{table}.parquet").to_pylist()
    if table == "memory":
        return sorted(rows, key=lambda row: (row["rank"], row["time_ns"]))
    return sorted(rows, key=lambda row: (row["rank"], row["start_ns"], -row["end_ns"]))


def _names(rank: int, role: str | None, spans: list[Row]) -> Iterator[Row]:
    last = max((s["thread"] for s in spans if s["rank"] == rank), default=FIRST_SPANS_THREAD)
    names = {STEPS_THREAD: "steps", FIRST_SPANS_THREAD: "spans"}
    names |= {thread: "spans, also" for thread in range(FIRST_SPANS_THREAD + 1, last + 1)}
    title = f"rank {rank} · {role}" if role else f"rank {rank}"
    yield _meta(rank, 0, "process_name", name=title)
    yield _meta(rank, 0, "process_sort_index", sort_index=rank)
    for thread, name in names.items():
        yield _meta(rank, thread, "thread_name", name=name)
        yield _meta(rank, thread, "thread_sort_index", sort_index=thread)


def _meta(rank: int, thread: int, what: str, **args: Any) -> Row:
    return {"ph": "M", "pid": rank, "tid": thread, "name": what, "args": args}


def _slice(row: Row, thread: int, base: int, names: tuple[str, ...]) -> Row:
    return {
        "ph": "X",
        "pid": row["rank"],
        "tid": thread,
        "ts": (row["start_ns"] - base) / 1000,
        "dur": (row["end_ns"] - row["start_ns"]) / 1000,
        "args": {name: row[name] for name in names},
    }


def _step_slices(steps: list[Row], base: int) -> Iterator[Row]:
    names = ("repeat", "step", "requests", "tokens", "leased", "kv_tokens", "method")
    for row in steps:
        labels = {"name": f"{row['kind']} {row['step']}", "cat": "step"}
        yield labels | _slice(row, STEPS_THREAD, base, names)


def _span_slices(spans: list[Row], base: int) -> Iterator[Row]:
    names = ("repeat", "step", "layer", "micro_batch", "channel", "sequence", "bytes")
    for row in spans:
        labels = {"name": row["phase"], "cat": row["category"]}
        yield labels | _slice(row, row["thread"], base, names)


def _arrows(spans: list[Row], base: int) -> Iterator[Row]:
    sends: dict[tuple[int, str, int], Row] = {}
    for span in spans:
        if span["phase"].startswith("send_") and span["channel"]:
            sends.setdefault((span["repeat"], span["channel"], span["sequence"]), span)
    waits = (span for span in spans if span["phase"].startswith("wait_"))
    for number, wait in enumerate(waits):
        send = sends.get((wait["repeat"], wait["channel"], wait["sequence"]))
        if send is None:
            continue
        same = {"name": wait["channel"], "cat": "exchange", "id": number}
        # The end of a slice is no longer in it: the arrow's head goes a nanosecond before.
        head_ns = max(wait["start_ns"], wait["end_ns"] - 1)
        yield same | {"ph": "s"} | _point(send, send["start_ns"], base)
        yield same | {"ph": "f", "bp": "e"} | _point(wait, head_ns, base)


def _point(span: Row, time_ns: int, base: int) -> Row:
    return {"pid": span["rank"], "tid": span["thread"], "ts": (time_ns - base) / 1000}


def _memory_counters(memory: list[Row], base: int) -> Iterator[Row]:
    for row in memory:
        counter = {"ph": "C", "pid": row["rank"], "tid": 0, "name": f"memory {row['owner']}"}
        yield counter | {"ts": (row["time_ns"] - base) / 1000, "args": {"bytes": row["bytes"]}}


def _lease_counters(steps: list[Row], base: int) -> Iterator[Row]:
    for row in steps:
        counter = {"ph": "C", "pid": row["rank"], "tid": 0, "name": "leases"}
        ts = (row["start_ns"] - base) / 1000
        yield counter | {"ts": ts, "args": {"requests": row["leased"]}}
