"""One file in: every form, every cut, whatever it holds."""

import gzip
import json
import tracemalloc
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fapool.errors import ProfileFileError
from fapool.traces import read
from fapool.traces.stream import EventStream
from tests.traces import forms
from tests.traces.forms import BASE_NS, event, kernel, launch, said, step

DATA = Path(__file__).parent.parent / "data" / "h200-fapool-1-1" / "trace"
in_one_folder = settings(
    max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

EVENTS = [
    step(7, 0, 9_000),
    event("ffn", "cpu_op", 10, 500, category="compute", layer=3, **{"External id": 41}),
    event("aten::mm", "cpu_op", 20, 480, **{"External id": 42, "Input Dims": [[4, 4], [{}, "},"]]}),
    launch(5, 100, 201),
    kernel(1_001, 2_345, 'void "gemm"<{a}, [b\\]>', correlation=5, **{"External id": 42}),
    {"ph": "s", "id": 5, "pid": 1, "tid": 7, "ts": 0.1, "cat": "ac2g", "name": "ac2g"},
    event("record_param_comms", "cpu_op", 600, 700, **said("allreduce", [0, 1], Seq=8)),
    kernel(2_000, 3_999, "ncclDevKernel_AllReduce", 20, **said("allreduce", [0, 1], Seq=8)),
    event("Memcpy HtoD", "gpu_memcpy", 4_000, 4_100, device=0, stream=7, bytes=64),
    {"name": "process_name", "ph": "M", "ts": 0.0, "pid": 1, "tid": 0, "args": {"name": "python"}},
]


def starts(trace) -> list[int]:
    return sorted(row["start_ns"] for rows in forms.tables(trace).values() for row in rows)


@pytest.mark.parametrize("block_bytes", [64, 333, 1 << 20])
@pytest.mark.parametrize("name", ["a.json", "a.json.gz"])
@pytest.mark.parametrize("form", forms.FORMS)
def test_every_form_of_a_file_gives_the_same_tables(tmp_path, form, name, block_bytes):
    trace = read(forms.write(tmp_path / name, form(EVENTS)), block_bytes=block_bytes)
    assert (trace.rank, trace.world, trace.base_ns) == (1, 2, BASE_NS)
    assert trace.metadata == forms.HEAD | forms.TAIL
    assert (trace.num_events, trace.notes) == (len(EVENTS), [])
    found = forms.tables(trace)
    first, second, copy = found["kernels"]
    assert first["name"] == 'void "gemm"<{a}, [b\\]>'
    assert (first["start_ns"], first["end_ns"], first["correlation"]) == (1_001, 2_345, 5)
    assert (first["kind"], first["external"], first["sequence"]) == ("kernel", 42, -1)
    assert (second["collective"], second["group"], second["ranks"]) == ("allreduce", "0", "[0, 1]")
    assert (second["sequence"], second["bytes"], second["stream"]) == (8, 20, 20)
    assert (copy["kind"], copy["bytes"]) == ("memcpy", 64)
    (span,) = found["spans"]
    assert (span["phase"], span["category"], span["layer"]) == ("ffn", "compute", 3)
    assert [row["number"] for row in found["steps"]] == [7]
    assert [row["correlation"] for row in found["launches"]] == [5]
    assert [row["sequence"] for row in found["collectives"]] == [8]
    assert not found["ops"]


def test_a_bare_array_is_a_trace_that_does_not_know_its_rank(tmp_path):
    trace = read(forms.write(tmp_path / "a.json", forms.bare(EVENTS)))
    assert (trace.rank, trace.world, trace.base_ns, trace.notes) == (-1, -1, 0, [])
    assert trace.kernels["end_ns"].to_pylist() == [2_345, 3_999, 4_100]
    named = read(forms.write(tmp_path / "x_rank-12.json", forms.bare(EVENTS)))
    assert named.rank == 12


def test_operators_come_where_they_are_asked_for_and_our_spans_are_none_of_them(tmp_path):
    path = forms.write(tmp_path / "a.json", forms.compact(EVENTS))
    names = read(path, ops=True).ops["name"].to_pylist()
    assert names == ["aten::mm", "record_param_comms"]
    assert not read(path, ops=None).ops.num_rows  # it has kernels
    host = [one for one in EVENTS if one.get("cat") == "cpu_op"]
    path = forms.write(tmp_path / "host.json", forms.compact(host))
    assert read(path, ops=None).ops.num_rows == 2


@pytest.mark.parametrize("form", [*forms.FORMS, forms.bare])
def test_a_text_that_is_cut_anywhere_is_read_as_far_as_it_goes(tmp_path, form):
    text = form(EVENTS[:5])
    path = tmp_path / "a.json"
    whole = starts(read(forms.write(path, text)))
    counts = set()
    for cut in range(0, len(text) - 2, 5):
        try:
            trace = read(forms.write(path, text[:cut]), block_bytes=400)
        except ProfileFileError as error:
            assert path.name in str(error)
            continue
        counts.add(trace.num_events)
        assert set(starts(trace)) <= set(whole)
        assert trace.notes
    assert counts >= {0, 1, 2, 3, 4}


def test_a_gzipped_file_that_is_cut_anywhere_is_read_as_far_as_it_goes(tmp_path):
    (whole,) = DATA.glob("rank1.*")
    data = whole.read_bytes()
    path = tmp_path / whole.name
    numbers = []
    for part in (0.001, 0.1, 0.5, 0.9, 0.9999):
        path.write_bytes(data[: int(len(data) * part)])
        try:
            trace = read(path)
        except ProfileFileError:
            numbers.append(0)
            continue
        numbers.append(trace.num_events)
        assert any("cut off" in note for note in trace.notes)
    assert numbers == sorted(numbers)
    assert numbers[0] == 0 < numbers[1]
    assert 7_000 < numbers[-1] <= read(whole).num_events


def test_gzip_that_is_broken_within_is_read_up_to_there(tmp_path):
    (whole,) = DATA.glob("rank1.*")
    data = bytearray(whole.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 200] = bytes(200)
    path = tmp_path / whole.name
    path.write_bytes(data)
    trace = read(path)
    assert 0 < trace.num_events < 7_159
    assert any("broken" in note for note in trace.notes)


def test_members_of_gzip_are_read_as_one_text(tmp_path):
    text = forms.compact(EVENTS).encode()
    path = tmp_path / "a.json.gz"
    path.write_bytes(gzip.compress(text[:300]) + gzip.compress(text[300:]))
    assert read(path).num_events == len(EVENTS)


@in_one_folder
@given(st.integers(0, 2**57), st.lists(st.integers(0, 10**9), min_size=1, max_size=8))
def test_no_nanosecond_is_lost_however_large_the_instants_are(tmp_path, first, gaps):
    spans = [(first + gap, first + 3 * gap + 1) for gap in gaps]
    one = '{"ph": "X", "cat": "kernel", "name": "k", "ts": %s, "dur": %s}'
    texts = [one % (exact(start), exact(end - start)) for start, end in spans]
    head = f'{{"baseTimeNanoseconds": {BASE_NS}, "traceEvents": ['
    for numbers in (texts, [quoted(text) for text in texts]):
        path = forms.write(tmp_path / "a.json", head + ",".join(numbers) + "]}")
        table = read(path).kernels
        found = zip(table["start_ns"].to_pylist(), table["end_ns"].to_pylist(), strict=True)
        assert sorted(found) == sorted((BASE_NS + a, BASE_NS + b) for a, b in spans)


def exact(ns: int) -> str:
    return f"{ns // 1000}.{ns % 1000:03d}"


def quoted(text: str) -> str:
    found = json.loads(text, parse_float=str)
    return json.dumps(found)


def test_beginnings_and_ends_make_events_and_the_rest_is_said(tmp_path):
    same = {"cat": "kernel", "name": "outer", "pid": 1, "tid": 7}
    pairs = [
        {"ph": "B", **same, "ts": 1.001, "args": {"correlation": 3}},
        {"ph": "B", **same, "name": "inner", "ts": 2},
        {"ph": "E", "pid": 1, "tid": 7, "ts": "2.5"},
        {"ph": "E", "pid": 1, "tid": 7, "ts": 9.003},
        {"ph": "E", "pid": 1, "tid": 7, "ts": 9.5},
        {"ph": "B", **same, "ts": 10},
    ]
    trace = read(forms.write(tmp_path / "a.json", forms.compact(pairs)))
    rows = forms.tables(trace)["kernels"]
    found = [(row["name"], row["start_ns"], row["end_ns"], row["correlation"]) for row in rows]
    assert found == [("outer", 1_001, 9_003, 3), ("inner", 2_000, 2_500, -1)]
    assert trace.notes == [
        "1 events ended that did not begin: left out",
        "1 events began and did not end: left out",
    ]


def test_what_an_event_lacks_is_said(tmp_path):
    odd = [
        {"ph": "X", "cat": "kernel", "name": "no dur", "ts": 5, "pid": 0, "tid": 3},
        {"ph": "X", "cat": "kernel", "name": "no ts", "dur": 5},
        {"ph": "X", "cat": "Kernel", "name": 5, "ts": 6, "dur": -2, "pid": "CPU", "tid": "3"},
        {"ph": "b", "cat": "async", "id": 3, "ts": 5},
        {"something": "else"},
    ]
    trace = read(forms.write(tmp_path / "a.json", forms.compact(odd)))
    rows = forms.tables(trace)["kernels"]
    assert [(row["name"], row["start_ns"], row["end_ns"]) for row in rows] == [
        ("no dur", 5_000, 5_000),
        ("5", 6_000, 6_000),
    ]
    assert [(row["device"], row["stream"]) for row in rows] == [(0, 3), (-1, 3)]
    assert len(trace.notes) == 4
    assert "2 events do not say how long they took: taken as instants" in trace.notes


BROKEN = [
    '{"ph": "X", "cat": "kernel", "name": "odd \x01", "ts": 1}',
    '{"ph": "X", "cat": "kernel", "name": "odd", "ts": 1, "args": [1]}',
    '{"ph": "X", "cat": "kernel", "name": 1e}',
    '{"ph": "X", "cat": "kernel", "name": "odd", "ts": 1, "args": {"a": }}',
    "17",
]


@pytest.mark.parametrize("broken", BROKEN)
def test_an_event_that_is_no_json_costs_itself_alone(tmp_path, broken):
    texts = [json.dumps(one) for one in EVENTS]
    text = '{"traceEvents": [' + ", ".join([*texts[:4], broken, *texts[4:]]) + "]}"
    trace = read(forms.write(tmp_path / "a.json", text))
    assert trace.notes == ["1 events could not be read: left out"]
    assert trace.num_events == len(EVENTS)


def test_a_word_that_does_not_end_costs_its_own_event_in_kinetos_form(tmp_path):
    text = forms.kineto(EVENTS)
    assert '"aten::mm"' in text
    path = forms.write(tmp_path / "a.json", text.replace('"aten::mm"', '"aten::mm'))
    trace = read(path)
    assert trace.num_events == len(EVENTS) - 1
    assert trace.metadata == forms.HEAD | forms.TAIL


def test_a_head_that_is_no_json_costs_itself_but_not_the_base(tmp_path):
    text = forms.kineto(EVENTS).replace('"nccl"', '"nccl')
    trace = read(forms.write(tmp_path / "rank3.json", text))
    assert (trace.num_events, trace.rank, trace.base_ns) == (len(EVENTS), 3, BASE_NS)
    assert len(trace.notes) == 1


@pytest.mark.parametrize("number", ["nan", "-nan", "NaN", "inf", "Infinity", "-Infinity"])
def test_numbers_that_json_does_not_know_do_no_harm(tmp_path, number):
    text = forms.kineto([kernel(1_000, 2_000, occupancy=77)]).replace("77", number)
    trace = read(forms.write(tmp_path / "a.json", text))
    assert trace.kernels["end_ns"].to_pylist() == [BASE_NS + 2_000]
    assert not trace.notes


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        ("  \n", "empty"),
        ("hello", "no trace"),
        ("17", "no trace"),
        ('{"a": 1}', "no trace"),
        ('{"args": {"traceEvents": []}}', "no trace"),
        ('{"note": "\\"traceEvents\\": ["}', "no trace"),
        ("[1, 2, 3]", "none of its elements"),
        ('[{"a": 1}, {"b": 2}]', "none of its elements"),
        ('{"schemaVersion": 1, "device', "cut off"),
    ],
)
def test_a_file_that_is_no_trace_is_an_error_that_names_it(tmp_path, text, said):
    with pytest.raises(ProfileFileError, match=said) as caught:
        read(forms.write(tmp_path / "odd.json", text))
    assert "odd.json" in str(caught.value)


def test_a_missing_file_is_an_error_that_names_it(tmp_path):
    with pytest.raises(ProfileFileError, match=r"gone\.json.*No such file"):
        read(tmp_path / "gone.json")


def test_a_trace_without_events_is_one_and_says_so(tmp_path):
    trace = read(forms.write(tmp_path / "a.json", forms.kineto([])))
    assert trace.notes == ["the trace holds no events"]
    assert trace.kernels.num_rows == 0


def test_the_committed_traces_have_all_that_json_finds_in_them(tmp_path):
    for path in DATA.iterdir():
        whole = json.loads(gzip.decompress(path.read_bytes()), parse_float=Decimal)
        events = whole["traceEvents"]
        trace = read(path, ops=True, block_bytes=50_000)
        kinds = {"kernel": "kernel", "gpu_memcpy": "memcpy", "gpu_memset": "memset"}
        on_device = [one for one in events if one.get("cat") in kinds]
        expected = sorted(
            (
                int(one["ts"] * 1000),
                kinds[one["cat"]],
                one["name"],
                one["args"]["correlation"],
                one["args"].get("Collective name", ""),
            )
            for one in on_device
        )
        names = ("start_ns", "kind", "name", "correlation", "collective")
        rows = [tuple(row[name] for name in names) for row in forms.tables(trace)["kernels"]]
        assert sorted(rows) == expected
        spans = [one for one in events if "category" in one.get("args", {})]
        assert trace.spans.num_rows == len(spans) > 100
        assert trace.num_events == len(events)
        assert not trace.notes


def test_of_the_text_only_a_few_blocks_are_held(tmp_path):
    path = forms.write(tmp_path / "a.json", forms.kineto(EVENTS * 4000))
    for _ in EventStream(path, block_bytes=1 << 16):  # what is loaded once is loaded now
        pass
    tracemalloc.start()
    num_events = sum(map(len, EventStream(path, block_bytes=1 << 16)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert num_events == 4000 * len(EVENTS)
    assert peak < path.stat().st_size / 4
