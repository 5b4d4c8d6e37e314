"""Events that make no sense, of any kind and in any place, harm none but themselves."""

import json

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fapool.analysis.activities.breakdown import PARTS, break_down
from fapool.errors import ProfileFileError
from fapool.traces import SCHEMAS, read
from tests.traces import forms
from tests.traces.forms import kernel, launch, said, step

anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(width=32)
    | st.sampled_from(
        ["", "7", "kernel", "ProfilerStep#2", "[0, 1]", "send", "ä\ud83d\ude00", "1e9"]
    ),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)
categories = st.sampled_from(
    ["kernel", "gpu_memcpy", "cuda_runtime", "cpu_op", "user_annotation", "gpu_user_annotation"]
)
fields = st.sampled_from(["ph", "cat", "name", "ts", "dur", "pid", "tid", "args", "id", "new"])
args = st.sampled_from(
    [
        "device",
        "stream",
        "correlation",
        "External id",
        "bytes",
        "Collective name",
        "Seq",
        "Dst Rank",
        "Process Group Name",
        "Process Group Ranks",
        "In msg nelems",
        "dtype",
        "category",
        "layer",
    ]
)
odd_events = st.builds(
    lambda category, name, times, more, own: {
        "ph": "X", "cat": category, "name": name, "ts": times[0], "dur": times[1], "args": own,
        **more,
    },
    categories,
    st.sampled_from(["gemm", "ncclDevKernel", "ProfilerStep#1", "record_param_comms", "gloo:x"]),
    st.tuples(st.integers(0, 50), st.integers(0, 20)),
    st.dictionaries(fields, anything, max_size=2),
    st.dictionaries(args, anything, max_size=4),
)  # fmt: skip
GOOD = [
    step(1, 0, 60_000),
    launch(1, 10, 20),
    kernel(1_000, 9_001, "good", correlation=1, **said("allreduce", [0, 1])),
]


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(odd_events | anything, max_size=5), st.integers(0, 3), st.sampled_from([80, 4096]))
def test_events_that_make_no_sense_leave_the_others_as_they_are(tmp_path, odd, place, block_bytes):
    events = [*GOOD[:place], *odd, *GOOD[place:]]
    path = forms.write(tmp_path / "a.json", json.dumps({"traceEvents": events}))
    trace = read(path, ops=True, block_bytes=block_bytes)
    for name, schema in SCHEMAS.items():
        assert getattr(trace, name).schema == schema
    good = [row for row in trace.kernels.to_pylist() if row["name"] == "good"]
    assert [(row["start_ns"], row["end_ns"]) for row in good] == [(1_000, 9_001)]
    found = break_down([trace]).steps
    assert (found[PARTS].sum(axis=1) == found["wall_ns"]).all()


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=60), st.data())
def test_bytes_of_any_kind_in_the_middle_cost_what_they_replace(tmp_path, junk, data):
    text = forms.kineto(GOOD * 3).encode()
    place = data.draw(st.integers(0, len(text)))
    path = tmp_path / "a.json"
    path.write_bytes(text[:place] + junk + text[place + len(junk) :])
    try:
        trace = read(path, block_bytes=data.draw(st.sampled_from([100, 4096])))
    except ProfileFileError as error:
        assert "a.json" in str(error)
        return
    assert trace.num_events <= 3 * len(GOOD) + len(junk)
    break_down([trace])
