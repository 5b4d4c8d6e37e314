"""The merged trace is what Perfetto wants: one clock, nested slices, arrows from send to wait."""

import gzip
import re
import shutil
from collections import defaultdict
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fapool.instrument.merged import write_merged
from fapool.phases import EVENTS
from fapool.spec import FAPool
from fapool.store import MERGED, RunFolder
from tests.synthetic import EPOCH_NS, small_spec, write_run

GRAPHS = Path(__file__).parent.parent / "data" / "h100-graphs-fapool-1-1"
GPU_TRACES = Path(__file__).parent.parent / "data" / "h200-fapool-1-1" / "trace"


def load(folder: RunFolder) -> dict:
    write_merged(folder)
    return orjson.loads(gzip.decompress((folder.path / MERGED).read_bytes()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return RunFolder(write_run(tmp_path_factory.mktemp("profiles")).path)


@pytest.fixture(scope="module")
def trace(folder: RunFolder) -> dict:
    return load(folder)


def rows(folder: RunFolder, table: str) -> list[dict]:
    return pq.read_table(folder.path / f"{table}.parquet").to_pylist()


def nest_or_are_disjoint(slices: list[tuple[int, int]]) -> bool:
    return not any(a < c < b < d for a, b in slices for c, d in slices)


def test_every_rank_is_a_process_with_its_role(trace):
    names = [e["args"]["name"] for e in trace["traceEvents"] if e["name"] == "process_name"]
    assert names == ["rank 0 · base", "rank 1 · base", "rank 2 · pool", "rank 3 · pool"]


def test_every_span_and_step_is_a_slice_at_its_time(folder, trace):
    slices = [e for e in trace["traceEvents"] if e["ph"] == "X"]
    base = trace["baseTimeNanoseconds"]
    assert base == EPOCH_NS
    steps = [e for e in slices if e["cat"] == "step"]
    expected = {(row["rank"], row["start_ns"], row["end_ns"]) for row in rows(folder, "steps")}
    assert {(e["pid"], *nanoseconds(e, base)) for e in steps} == expected
    assert len(slices) - len(steps) == len(rows(folder, "events"))


def test_no_two_threads_of_the_file_have_one_number(trace):
    """Perfetto takes threads of one number for one, and a process's own number for its first."""
    owners = defaultdict(set)
    for event in trace["traceEvents"]:
        owners[event["tid"]].add(event["pid"])
    assert all(len(pids) == 1 for pids in owners.values())
    assert not owners.keys() & {0, *(pid for pids in owners.values() for pid in pids)}


def test_slices_of_a_thread_nest_or_are_disjoint(trace):
    threads = defaultdict(list)
    for event in trace["traceEvents"]:
        if event["ph"] == "X":
            threads[event["pid"], event["tid"]].append(nanoseconds(event, 0))
    for slices in threads.values():
        assert nest_or_are_disjoint(slices[:300])


def test_every_wait_is_reached_by_an_arrow_from_its_send(folder, trace):
    arrows = defaultdict(dict)
    for event in trace["traceEvents"]:
        if event["ph"] in "sf":
            arrows[event["id"]][event["ph"]] = event
    waits = [row for row in rows(folder, "events") if row["phase"].startswith("wait_")]
    assert len(arrows) == len(waits) > 0
    for arrow in arrows.values():
        sender, receiver = arrow["s"]["name"].split(">")
        assert (arrow["s"]["pid"], arrow["f"]["pid"]) == (int(sender), int(receiver))
        assert arrow["s"]["ts"] <= arrow["f"]["ts"]


def test_counters_show_every_reading(folder, trace):
    counters = [e for e in trace["traceEvents"] if e["ph"] == "C"]
    memory = [e for e in counters if e["name"].startswith("memory ")]
    assert len(memory) == len(rows(folder, "memory"))
    assert {e["name"] for e in counters} >= {"leased", "memory weights", "memory kv_used"}


def test_counters_of_tokens_grow_to_what_came_out(folder, trace):
    counts = [e for e in trace["traceEvents"] if e["name"] == "emitted"]
    emitted = [e["args"]["tokens"] for e in counts]
    assert emitted == sorted(emitted)
    assert emitted[-1] == sum(row["output"] for row in rows(folder, "requests")) == 2 * 2 * 4
    assert [e["ts"] for e in counts] == sorted(e["ts"] for e in counts)
    held = {(e["pid"], e["args"]["tokens"]) for e in trace["traceEvents"] if e["name"] == "KV"}
    assert held == {(row["rank"], row["kv_tokens"]) for row in rows(folder, "steps")}


def test_every_field_of_a_span_is_among_its_args(folder, trace):
    slices = [e for e in trace["traceEvents"] if e["ph"] == "X" and e["cat"] != "step"]
    names = ("repeat", "step", "layer", "micro_batch", "channel", "sequence", "bytes")
    expected = {(r["phase"], r["category"], *(r[n] for n in names)) for r in rows(folder, "events")}
    assert {(e["name"], e["cat"], *(e["args"][n] for n in names)) for e in slices} == expected


def test_a_span_that_served_several_exchanges_is_one_slice_that_all_of_them_reach(tmp_path):
    run = write_run(tmp_path)
    table = pq.read_table(run.path / "events.parquet").to_pandas()
    at = table[(table["rank"] == 0) & (table["phase"] == "wait_partials")].iloc[0]
    twin = table[(table["channel"] == "3>1") & (table["sequence"] == at["sequence"])]
    assert len(twin) == 2  # a send of rank 3, whose wait is moved to rank 0, beside the other
    wait = twin.index[twin["rank"] == 1]
    moved = ["rank", "start_ns", "end_ns", "step", "repeat", "layer"]
    table.loc[wait, moved] = at[moved].to_numpy()
    pq.write_table(
        pa.Table.from_pandas(table, EVENTS, preserve_index=False), run.path / "events.parquet"
    )
    trace = load(RunFolder(run.path))
    slices = [e for e in trace["traceEvents"] if e["ph"] == "X" and e["cat"] != "step"]
    assert len(slices) == len(table) - 1
    (whole,) = [e for e in slices if "," in e["args"]["channel"]]
    assert set(whole["args"]["channel"].split(",")) == {at["channel"], "3>1"}
    assert whole["args"]["bytes"] == 2 * 4096
    ends = [e for e in trace["traceEvents"] if e["ph"] == "f" and e["pid"] == 0]
    inside = [e for e in ends if whole["ts"] <= e["ts"] <= whole["ts"] + whole["dur"]]
    assert {e["name"] for e in inside} == {at["channel"], "3>1"}


def test_clocks_that_may_be_apart_are_told_with_their_ranks(tmp_path):
    found = RunFolder(write_run(tmp_path).path)
    clock = {"uncertainty_ns": {str(rank): 4_200 * (rank > 1) for rank in range(4)}}
    clock["traces_uncertainty_ns"] = {"0": 900, "2": 25_801}
    found.write_json("environment.json", {"ranks": [], "clock": clock})
    trace = load(found)
    assert trace["otherData"]["clock"] == clock
    names = [e["args"]["name"] for e in trace["traceEvents"] if e["name"] == "process_name"]
    assert names == [
        "rank 0 · base · of its trace ± 0.9 µs",
        "rank 1 · base",
        "rank 2 · pool · clock ± 4.2 µs, of its trace ± 25.8 µs",
        "rank 3 · pool · clock ± 4.2 µs",
    ]


def test_what_no_viewer_would_open_is_left_out_on_all_ranks_alike(folder):
    write_merged(folder, most_spans=100)
    trace = orjson.loads(gzip.decompress((folder.path / MERGED).read_bytes()))
    slices = [e for e in trace["traceEvents"] if e["ph"] == "X"]
    spans = [e for e in slices if e["cat"] != "step"]
    assert 90 <= len(spans) <= 100
    (note,) = trace["otherData"]["notes"]
    assert note.startswith(f"only the first {len(spans)} of {len(rows(folder, 'events'))} spans")
    latest = max(nanoseconds(e, EPOCH_NS)[0] for e in spans)
    left_out = [row for row in rows(folder, "events") if row["start_ns"] > latest]
    assert len(left_out) == len(rows(folder, "events")) - len(spans)
    until = min(row["start_ns"] for row in left_out)
    firsts = [row for row in rows(folder, "requests") if row["first_token_ns"] < until]
    decoded = [e for e in slices if e["pid"] == 0 and e["name"].startswith("decode ")]
    emitted = [e for e in trace["traceEvents"] if e["name"] == "emitted"]
    assert len(emitted) == len(firsts) + len(decoded) < len(rows(folder, "requests")) + len(decoded)


def test_kernels_and_arrows_end_with_the_spans_that_are_left(tmp_path):
    folder = RunFolder(shutil.copytree(GRAPHS, tmp_path / "run"))
    starts = sorted(row["start_ns"] for row in rows(folder, "events"))
    traced = [e for e in load(folder)["traceEvents"] if on_a_stream(e, 0) or on_a_stream(e, 1)]
    first = load(folder)["baseTimeNanoseconds"] + 1000 * min(e["ts"] for e in traced)
    most = len(starts) // 2
    moved = {"profiler": {"offset_ns": round(starts[most] - 5_000_000 - first)}}  # into the spans
    ranks = [{"rank": rank, "clock": moved} for rank in range(2)]
    folder.write_json("environment.json", {"ranks": ranks})
    write_merged(folder, most_spans=most)
    trace = orjson.loads(gzip.decompress((folder.path / MERGED).read_bytes()))
    until = (starts[most] - trace["baseTimeNanoseconds"]) / 1000
    events = [e for e in trace["traceEvents"] if e["ph"] in "Xsf"]
    assert max(e["ts"] for e in events) < until
    kept = [e for e in events if on_a_stream(e, 0) or on_a_stream(e, 1)]
    assert 0 < len(kept) < len(traced)
    named = {(e["pid"], e["tid"]) for e in trace["traceEvents"] if e["name"] == "thread_name"}
    assert {(e["pid"], e["tid"]) for e in events if e["ph"] == "X"} == named
    assert re.search(r"; \d+ later slices of the profiler's window", trace["otherData"]["notes"][0])


@pytest.fixture(scope="module")
def with_kernels(tmp_path_factory) -> dict:
    """A run of two ranks with the traces that two H200s left."""
    spec = small_spec(plan=FAPool(base=1, pool=1, threshold=64))
    run = write_run(tmp_path_factory.mktemp("profiles"), spec)
    for path in GPU_TRACES.glob("rank*"):
        shutil.copy(path, run.path / "trace" / path.name)
    return load(RunFolder(run.path))


def test_kernels_stand_on_their_streams_and_are_reached_from_their_launches(with_kernels):
    trace = with_kernels
    threads = {
        (e["pid"], e["tid"]): e["args"]["name"]
        for e in trace["traceEvents"]
        if e["name"] == "thread_name"
    }
    slices = [e for e in trace["traceEvents"] if e["ph"] == "X"]
    for rank, path in enumerate(sorted(GPU_TRACES.glob("rank*"))):
        raw = orjson.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
        kernels = [e for e in raw if e.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset")]
        on_streams = [e for e in slices if e["pid"] == rank and e["tid"] % 10_000 >= 1000]
        assert sorted(e["name"] for e in on_streams) == sorted(e["name"] for e in kernels)
        called = {threads[rank, e["tid"]] for e in on_streams}
        streams = {f"GPU {e['args']['device']} · stream {e['args']['stream']}" for e in kernels}
        assert called - {f"{name}, also" for name in streams} == streams
    arrows = [e for e in trace["traceEvents"] if e["ph"] in "sf" and e["cat"] == "launch"]
    starts, ends = ([e for e in arrows if e["ph"] == ph] for ph in "sf")
    assert [e["id"] for e in starts] == [e["id"] for e in ends]
    assert len(starts) > 0.9 * sum(e["tid"] % 10_000 >= 1000 for e in slices)
    assert {threads[e["pid"], e["tid"]].split(",")[0] for e in starts} == {"launches"}
    kernels = {(e["pid"], e["tid"], e["ts"]) for e in slices if e["tid"] % 10_000 >= 1000}
    assert {(e["pid"], e["tid"], e["ts"]) for e in ends} <= kernels
    numbers = [e["id"] for e in trace["traceEvents"] if e["ph"] == "s"]
    assert len(numbers) == len(set(numbers))


def test_slices_of_a_stream_nest_or_are_disjoint_too(with_kernels):
    threads = defaultdict(list)
    for event in with_kernels["traceEvents"]:
        if event["ph"] == "X":
            threads[event["pid"], event["tid"]].append(nanoseconds(event, 0))
    assert len(threads) > 2 * 4
    for slices in threads.values():
        assert nest_or_are_disjoint(slices[:300])


def test_traces_are_moved_to_the_clock_of_the_tables(with_kernels, tmp_path):
    spec = small_spec(plan=FAPool(base=1, pool=1, threshold=64))
    run = write_run(tmp_path, spec)
    for path in GPU_TRACES.glob("rank*"):
        shutil.copy(path, run.path / "trace" / path.name)
    folder = RunFolder(run.path)
    clocks = [{"profiler": {"offset_ns": 1_500}}, {"profiler": None}]
    ranks = [{"rank": rank, "clock": clock} for rank, clock in enumerate(clocks)]
    folder.write_json("environment.json", {"ranks": ranks})
    moved = load(folder)
    for rank, by in ((0, 1_500), (1, 0)):
        before, after = (
            [e["ts"] for e in trace["traceEvents"] if on_a_stream(e, rank)]
            for trace in (with_kernels, moved)
        )
        assert after == pytest.approx([ts + by / 1000 for ts in before], abs=1e-2)


def on_a_stream(event: dict, rank: int) -> bool:
    return event["ph"] == "X" and event["pid"] == rank and event["tid"] % 10_000 >= 1000


def test_a_trace_that_cannot_be_read_is_said_and_the_rest_is_there(tmp_path):
    run = write_run(tmp_path)
    (run.path / "trace" / "rank0.1.pt.trace.json.gz").write_bytes(b"no trace at all")
    trace = load(RunFolder(run.path))
    (note,) = trace["otherData"]["notes"]
    assert note.startswith("rank0.1.pt.trace.json.gz")
    assert len([e for e in trace["traceEvents"] if e["ph"] == "X"]) > 100


def test_the_same_tables_give_the_same_bytes(folder):
    write_merged(folder)
    first = (folder.path / MERGED).read_bytes()
    write_merged(folder)
    assert (folder.path / MERGED).read_bytes() == first


def test_a_run_without_spans_gives_an_empty_trace(tmp_path):
    folder = RunFolder(tmp_path)
    folder.merge_parts()
    assert load(folder)["traceEvents"] == []


def nanoseconds(event: dict, base: int) -> tuple[int, int]:
    """Times of these traces are short enough for floats to the nanosecond."""
    start, length = round(event["ts"] * 1000), round(event["dur"] * 1000)
    return base + start, base + start + length


def test_the_trace_states_how_well_its_clocks_agree(tmp_path):
    folder = RunFolder(write_run(tmp_path).path)
    assert load(folder)["otherData"] == {"clock": {}, "notes": []}
    stated = {"uncertainty_ns": {"0": 0, "1": 4_100}}
    folder.write_json("environment.json", {"ranks": [], "clock": stated})
    assert load(folder)["otherData"] == {"clock": stated, "notes": []}


def test_a_whole_run_of_graphs_is_written_with_its_spans_and_kernels_in_their_steps(tmp_path):
    run = shutil.copytree(GRAPHS, tmp_path / "run")
    trace = load(RunFolder(run))
    slices = [e for e in trace["traceEvents"] if e["ph"] == "X"]
    for rank, path in enumerate(sorted(run.glob("trace/rank*"))):
        raw = orjson.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
        kernels = [e["name"] for e in raw if e.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset")]
        shown = [e["name"] for e in slices if e["pid"] == rank and e["tid"] % 10_000 >= 1000]
        assert sorted(shown) == sorted(kernels)
    steps = [e for e in slices if e["cat"] == "step"]
    assert len(steps) == len(rows(RunFolder(run), "steps")) == 80
    assert trace["otherData"]["clock"]["uncertainty_ns"].keys() == {"0", "1"}
    assert trace["otherData"]["notes"] == []
