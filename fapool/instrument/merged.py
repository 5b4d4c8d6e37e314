"""One trace of all ranks on one clock, from a run's tables and traces: Chrome JSON, for Perfetto.

process "rank 0 · base"
  thread "steps"            a slice a step
  thread "spans"            a slice a span; where two overlap without nesting, the later one
  thread "spans, also"      moves down, for Perfetto drops such a pair on one thread
  thread "GPU 0 · stream 7" a slice a kernel of the profiler's window, if the run has one
  counters                  memory by owner, leases, KV tokens; on rank 0 tokens emitted so far
arrows                      from each send_* to the wait_* of the same exchange, and from each
                            launch to its kernel
"""

from __future__ import annotations

import gzip

import numpy as np
import orjson
import pandas as pd
import pyarrow.parquet as pq

from fapool.instrument import chrome
from fapool.instrument.threads import place_on_threads
from fapool.instrument.traced import Traced, traced
from fapool.store import MERGED, RunFolder

STEPS_THREAD, FIRST_SPANS_THREAD = 0, 1
MOST_SPANS = 1_000_000
"""No viewer opens much more: spans after the first so many are left out, on all ranks alike."""

Rows = pd.DataFrame


def write_merged(folder: RunFolder, most_spans: int = MOST_SPANS) -> None:
    """Write `merged.json.gz` from the tables and traces of a folder whose parts were merged.

    `ts` and `dur` are microseconds to the nanosecond; `baseTimeNanoseconds` is the Unix time of 0.
    `otherData` says how well the ranks' clocks agree, and in notes what was left out. The same
    tables give the same bytes.
    """
    clock = folder.environment.get("clock", {})
    tables = {name: _rows(folder, name) for name in ("events", "steps", "memory", "requests")}
    seen = traced(folder)
    seen = _leave_out(tables, seen, most_spans)
    spans, steps, memory = (tables[name] for name in ("events", "steps", "memory"))
    times = (spans["start_ns"], steps["start_ns"], memory["time_ns"], seen.slices["start_ns"])
    base = min((int(column.min()) for column in times if len(column)), default=0)
    shown, number = _as_shown(spans)
    shown["tid"] = FIRST_SPANS_THREAD + _threads(shown)
    spans["tid"] = shown["tid"].to_numpy()[number]
    parts = _names(spans, steps, memory, seen, clock)
    parts += _step_slices(steps, base) + _span_slices(shown, base) + _kernel_slices(seen, base)
    arrows = _arrows(spans)
    parts += chrome.flows(arrows, base, "exchange", 0)
    parts += chrome.flows(seen.flows, base, "launch", len(arrows))
    parts += _memory_counters(memory, base) + _step_counters(steps, base)
    parts += _token_counter(steps, tables["requests"], base)
    stated = {"clock": clock, "notes": seen.notes}
    head = {"baseTimeNanoseconds": base, "displayTimeUnit": "ms", "otherData": stated}
    start = orjson.dumps(head)[:-1] + b',"traceEvents":[\n'
    data = start + b"".join(parts).removesuffix(b",\n") + b"\n]}\n"
    folder.write_bytes(MERGED, gzip.compress(data, compresslevel=3, mtime=0))


def _rows(folder: RunFolder, table: str) -> Rows:
    rows = pq.read_table(folder.path / f"{table}.parquet").to_pandas()
    rows = rows.rename(columns={"rank": "pid"})
    if table == "memory":
        return rows.sort_values(["pid", "time_ns"], kind="stable", ignore_index=True)
    if table == "requests":
        return rows
    keys = [-rows["end_ns"], rows["start_ns"], rows["pid"]]
    if table == "events":  # those of one moment side by side: see `_as_shown`
        phases = pd.factorize(rows["phase"], sort=True)[0]
        keys = [rows["micro_batch"], rows["layer"], phases, *keys]
    return rows.iloc[np.lexsort(keys)].reset_index(drop=True)


def _leave_out(tables: dict[str, Rows], seen: Traced, most: int) -> Traced:
    """Cut all tables where the spans become too many, and what was traced; says so in a note."""
    spans = tables["events"]
    if len(spans) <= most:
        return seen
    until = int(np.partition(spans["start_ns"].to_numpy(), most)[most])
    before = {"events": "start_ns", "steps": "start_ns", "memory": "time_ns"}
    before["requests"] = "first_token_ns"
    for name, column in before.items():
        tables[name] = tables[name][tables[name][column] < until].reset_index(drop=True)
    slices = seen.slices[seen.slices["start_ns"] < until].reset_index(drop=True)
    note = f"only the first {len(tables['events'])} of {len(spans)} spans are here, and what is as "
    note += "old as they"
    if later := len(seen.slices) - len(slices):
        note += f"; {later} later slices of the profiler's window are in trace/ alone"
    shown = set(zip(slices["pid"], slices["tid"], strict=True))
    return Traced(
        slices=slices,
        flows=seen.flows[seen.flows["to_ns"] < until].reset_index(drop=True),
        threads={thread: name for thread, name in seen.threads.items() if thread in shown},
        notes=[*seen.notes, note],
    )


def _as_shown(spans: Rows) -> tuple[Rows, np.ndarray]:
    """One row for each span, also of one that served several exchanges; and whose row is which."""
    same = ["pid", "start_ns", "end_ns", "phase", "layer", "micro_batch", "step", "repeat"]
    again = spans[same].eq(spans[same].shift()).all(axis=1).to_numpy() & (spans["channel"] != "")
    number = np.cumsum(~again.to_numpy()) - 1
    shown = spans[~again].reset_index(drop=True)
    several = np.isin(number, number[again])
    joined = spans[several].groupby(number[several]).agg({"channel": ",".join, "bytes": "sum"})
    shown.loc[joined.index, ["channel", "bytes"]] = joined
    return shown, number


def _threads(spans: Rows) -> np.ndarray:
    """The thread of each span, from 0, among those of its rank."""
    found = [np.zeros(0, dtype=np.int64)]
    for _, own in spans.groupby("pid", sort=True):
        found.append(place_on_threads(own["start_ns"].tolist(), own["end_ns"].tolist()))
    return np.concatenate(found)


def _names(spans: Rows, steps: Rows, memory: Rows, seen: Traced, clock: dict) -> list[bytes]:
    roles = dict(zip(steps["pid"], steps["role"], strict=True))
    last = spans.groupby("pid")["tid"].max().to_dict()
    found = []
    pids = [rows["pid"].unique() for rows in (spans, steps, memory, seen.slices)]
    for rank in sorted({int(pid) for some in pids for pid in some}):
        threads = {STEPS_THREAD: "steps", FIRST_SPANS_THREAD: "spans"}
        also = range(FIRST_SPANS_THREAD + 1, last.get(rank, FIRST_SPANS_THREAD) + 1)
        threads |= dict.fromkeys(also, "spans, also")
        threads |= {tid: name for (pid, tid), name in seen.threads.items() if pid == rank}
        title = f"rank {rank} · {roles[rank]}" if rank in roles else f"rank {rank}"
        title += _bounds(rank, clock)
        found.append(chrome.named(rank, 0, "process_name", name=title))
        found.append(chrome.named(rank, 0, "process_sort_index", sort_index=rank))
        for tid, name in threads.items():
            found.append(chrome.named(rank, tid, "thread_name", name=name))
            found.append(chrome.named(rank, tid, "thread_sort_index", sort_index=tid))
    return found


def _bounds(rank: int, clock: dict) -> str:
    """How sure a rank's times are, of the tables and of its trace, where either is in doubt."""
    kinds = {"uncertainty_ns": "clock", "traces_uncertainty_ns": "of its trace"}
    said = [
        f"{word} ± {bound / 1000:.3g} µs"
        for name, word in kinds.items()
        if (bound := clock.get(name, {}).get(str(rank)))
    ]
    return f" · {', '.join(said)}" if said else ""


def _step_slices(steps: Rows, base: int) -> list[bytes]:
    numbered = ("repeat", "step", "requests", "tokens", "leased", "kv_tokens")
    args = {name: chrome.numbers(steps[name]) for name in numbered}
    names = steps["kind"] + " " + steps["step"].astype(str)
    rows = steps.assign(name=names, cat="step", tid=STEPS_THREAD)
    return chrome.slices(rows, base, args | {"method": chrome.words(steps["method"])})


def _span_slices(spans: Rows, base: int) -> list[bytes]:
    numbered = ("repeat", "step", "layer", "micro_batch", "sequence", "bytes")
    args = {name: chrome.numbers(spans[name]) for name in numbered}
    rows = spans.rename(columns={"phase": "name", "category": "cat"})
    return chrome.slices(rows, base, args | {"channel": chrome.words(spans["channel"])})


def _kernel_slices(seen: Traced, base: int) -> list[bytes]:
    args = {name: chrome.numbers(seen.slices[name]) for name in ("correlation", "bytes")}
    return chrome.slices(seen.slices, base, args)


def _arrows(spans: Rows) -> Rows:
    """From each send to the wait of its exchange, on threads where both have slices."""
    key = ["repeat", "channel", "sequence"]
    at = [*key, "pid", "tid", "start_ns", "end_ns"]
    phases = spans["phase"].str
    sends = spans.loc[phases.startswith("send_") & (spans["channel"] != ""), at]
    waits = spans.loc[phases.startswith("wait_"), at]
    both = waits.merge(sends.drop_duplicates(key), on=key, suffixes=("_to", "_from"))
    # The end of a slice is no longer in it: the arrow's head goes a nanosecond before.
    head = np.maximum(both["start_ns_to"], both["end_ns_to"] - 1)
    columns = {"name": both["channel"], "from_pid": both["pid_from"], "from_tid": both["tid_from"]}
    columns |= {"from_ns": both["start_ns_from"], "to_pid": both["pid_to"]}
    return pd.DataFrame(columns | {"to_tid": both["tid_to"], "to_ns": head})


def _memory_counters(memory: Rows, base: int) -> list[bytes]:
    names = chrome.words("memory " + memory["owner"])
    return chrome.counters(memory, base, names, "bytes", memory["bytes"])


def _step_counters(steps: Rows, base: int) -> list[bytes]:
    began = steps.assign(time_ns=steps["start_ns"])
    ended = steps.assign(time_ns=steps["end_ns"])
    leases = chrome.counters(began, base, '"leased"', "requests", steps["leased"])
    return leases + chrome.counters(ended, base, '"KV"', "tokens", steps["kv_tokens"])


def _token_counter(steps: Rows, requests: Rows, base: int) -> list[bytes]:
    """On rank 0: a token a request with each decode step, and the first of those that finished."""
    decode = steps[(steps["pid"] == 0) & (steps["kind"] == "decode")]
    firsts = requests["first_token_ns"]
    times = np.concatenate([decode["end_ns"], firsts]).astype(np.int64)
    emitted = np.concatenate([decode["requests"], np.ones(len(firsts))]).astype(np.int64)
    order = np.argsort(times, kind="stable")
    rows = pd.DataFrame({"pid": 0, "time_ns": times[order]})
    total = np.cumsum(emitted[order])
    return chrome.counters(rows, base, '"emitted"', "tokens", total)
