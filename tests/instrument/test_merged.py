"""The merged trace is what Perfetto wants: one clock, nested slices, arrows from send to wait."""

import gzip
from collections import defaultdict

import orjson
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fapool.instrument.merged import NAME, place_on_threads, write_merged
from fapool.store import RunFolder
from tests.synthetic import EPOCH_NS, write_run


def load(folder: RunFolder) -> dict:
    write_merged(folder)
    return orjson.loads(gzip.decompress((folder.path / NAME).read_bytes()))


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
    assert {e["name"] for e in counters} >= {"leases", "memory weights", "memory kv_used"}


def test_the_same_tables_give_the_same_bytes(folder):
    write_merged(folder)
    first = (folder.path / NAME).read_bytes()
    write_merged(folder)
    assert (folder.path / NAME).read_bytes() == first


def test_a_run_without_spans_gives_an_empty_trace(tmp_path):
    folder = RunFolder(tmp_path)
    folder.merge_parts()
    assert load(folder)["traceEvents"] == []


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=25))
def test_spans_are_placed_so_that_those_of_a_thread_nest(times):
    spans = [{"rank": 0, "start_ns": min(pair), "end_ns": max(pair)} for pair in times]
    spans.sort(key=lambda span: (span["start_ns"], -span["end_ns"]))
    place_on_threads(spans)
    for thread in {span["thread"] for span in spans}:
        own = [(s["start_ns"], s["end_ns"]) for s in spans if s["thread"] == thread]
        assert nest_or_are_disjoint(own)


def nanoseconds(event: dict, base: int) -> tuple[int, int]:
    start, length = round(event["ts"] * 1000), round(event["dur"] * 1000)
    return base + start, base + start + length


def test_the_trace_states_how_well_its_clocks_agree(tmp_path):
    folder = RunFolder(write_run(tmp_path).path)
    assert load(folder)["otherData"] == {"clock": {}}
    stated = {"uncertainty_ns": {"0": 0, "1": 4_100}}
    folder.write_json("environment.json", {"ranks": [], "clock": stated})
    assert load(folder)["otherData"] == {"clock": stated}
