"""On a fake clock: what a recorder keeps, to the nanosecond, and what it leaves out."""

import timeit

import pyarrow as pa
import pytest
import torch

from fapool.instrument import ranges
from fapool.instrument.recorder import Recorder, no_span
from fapool.phases import EVENTS, STEPS, Category, Phase, Role

CPU = torch.device("cpu")
LABELS = {"kind": "decode", "requests": 2, "tokens": 2, "leased": 1, "kv_tokens": 40}


class FakeClock:
    """Stands still but when it is told to go on."""

    def __init__(self) -> None:
        self.now = 1_000

    def __call__(self) -> int:
        return self.now

    def go(self, ns: int) -> None:
        self.now += ns


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def recorder(clock) -> Recorder:
    return Recorder(rank=3, role=Role.POOL, device=CPU, clock=clock, unix_offset_ns=5_000_000)


def test_a_span_is_kept_with_its_labels_and_in_unix_time(recorder, clock):
    recorder.begin(0)
    clock.go(5)
    with recorder.span(Phase.SEND_QUERY, layer=7, channel="0>3", sequence=12, num_bytes=64):
        clock.go(20)
    recorder.end_step(step=4, **LABELS)
    events, steps = recorder.columns()
    assert pa.table(events, schema=EVENTS).to_pylist() == [
        {
            "repeat": 0,
            "rank": 3,
            "step": 4,
            "phase": "send_query",
            "category": "communication",
            "layer": 7,
            "micro_batch": -1,
            "start_ns": 5_001_005,
            "end_ns": 5_001_025,
            "channel": "0>3",
            "sequence": 12,
            "bytes": 64,
        }
    ]
    own = {"repeat": 0, "rank": 3, "step": 4, "role": "pool", "method": "host clock"}
    times = {"start_ns": 5_001_000, "end_ns": 5_001_025}
    assert pa.table(steps, schema=STEPS).to_pylist() == [own | times | LABELS]


def test_steps_share_their_borders(recorder, clock):
    recorder.begin(0)
    for step in range(3):
        clock.go(10 + step)
        recorder.end_step(step=step, **LABELS)
    _, steps = recorder.columns()
    assert steps["start_ns"][1:] == steps["end_ns"][:-1]


def test_totals_are_those_of_the_step_alone(recorder, clock):
    recorder.begin(0)
    with recorder.span(Phase.FFN):
        clock.go(30)
    clock.go(12)
    recorder.end_step(step=0, **LABELS)
    with recorder.span(Phase.STEP_BARRIER):
        clock.go(4)
        with recorder.span(Phase.MERGE):
            clock.go(6)
    totals = recorder.end_step(step=1, **LABELS)
    assert totals.wall_ns == 10
    assert totals.category_ns[Category.COMPUTE] == 6
    assert totals.category_ns[Category.SYNCHRONIZATION] == 4


def test_a_span_over_a_border_is_kept_whole_and_counted_up_to_it(recorder, clock):
    recorder.begin(0)
    with recorder.span(Phase.FFN):
        clock.go(10)
        recorder.end_step(step=0, **LABELS)
        clock.go(7)
    totals = recorder.end_step(step=1, **LABELS)
    assert totals.category_ns[Category.COMPUTE] == totals.wall_ns == 7
    events, _ = recorder.columns()
    assert events["end_ns"][0] - events["start_ns"][0] == 17


def test_warm_up_and_what_lies_between_repeats_is_not_kept(recorder, clock):
    recorder.begin(-1)
    with recorder.span(Phase.FFN):
        clock.go(10)
    assert recorder.end_step(step=0, **LABELS).category_ns[Category.COMPUTE] == 10
    with recorder.span(Phase.ATTEND):
        clock.go(10)
    recorder.begin(0)
    clock.go(1)
    assert recorder.end_step(step=0, **LABELS).category_ns[Category.COMPUTE] == 0
    events, steps = recorder.columns()
    assert events["phase"] == []
    assert steps["repeat"] == [0]


def test_a_span_that_raises_is_closed(recorder, clock):
    recorder.begin(0)
    with pytest.raises(ZeroDivisionError), recorder.span(Phase.FFN):
        clock.go(3)
        raise ZeroDivisionError
    assert recorder.end_step(step=0, **LABELS).category_ns[Category.COMPUTE] == 3


def test_nothing_recorded_is_two_empty_tables(recorder):
    events, steps = recorder.columns()
    assert pa.table(events, schema=EVENTS).num_rows == pa.table(steps, schema=STEPS).num_rows == 0


def test_disabled_spans_leave_steps_that_say_so(clock):
    recorder = Recorder(rank=0, role=Role.BASE, device=CPU, enabled=False, clock=clock)
    recorder.begin(0)
    with recorder.span(Phase.FFN):
        clock.go(10)
    assert recorder.end_step(step=0, **LABELS).category_ns[Category.IDLE] == 10
    events, steps = recorder.columns()
    assert events["phase"] == []
    assert steps["method"] == ["none"]


def test_a_disabled_span_costs_less_than_a_recorded_one():
    recorder = Recorder(rank=0, role=Role.BASE, device=CPU)

    def hundred() -> None:
        for _ in range(100):
            with recorder.span(Phase.FFN, layer=1):
                pass
        recorder.host_spans.clear()

    cost = {}
    for recorder.enabled in (True, False):
        cost[recorder.enabled] = min(timeit.repeat(hundred, number=20, repeat=15))
    assert cost[False] < 0.8 * cost[True]
    assert cost[True] / 2000 < 20e-6  # a record_function that nobody listens to costs that much


def test_no_span_takes_any_label():
    with no_span(Phase.FFN, layer=3, channel="0>1"):
        pass


class FakeDomain:
    """An NVTX domain that a tool listens to."""

    def __init__(self) -> None:
        self.built: list[tuple] = []
        self.calls: list[object] = []

    def get_event_attributes(self, *attributes: object) -> tuple:
        self.built.append(attributes)
        return attributes

    def push_range(self, attributes: tuple) -> None:
        self.calls.append(attributes[0])

    def pop_range(self) -> None:
        self.calls.append("pop")


def test_nvtx_ranges_nest_and_their_attributes_are_built_once(recorder):
    domain = FakeDomain()
    recorder.nvtx = ranges.NvtxRanges(domain)
    recorder.begin(0)
    for _ in range(2):
        with recorder.span(Phase.STEP_BARRIER), recorder.span(Phase.FFN, layer=3):
            pass
    assert domain.calls == ["step_barrier", "ffn", "pop", "pop"] * 2
    assert [(name, category, payload) for name, _, category, payload in domain.built] == [
        ("step_barrier", "synchronization", 0),
        ("ffn", "compute", 3),
    ]


def test_nvtx_attributes_do_not_grow_for_ever(monkeypatch):
    monkeypatch.setattr(ranges, "MAX_CACHED", 4)
    nvtx = ranges.NvtxRanges(FakeDomain())
    for size in range(20):
        nvtx.push(("send_kv", -1, -1, "0>1", size, size))
    assert len(nvtx._attributes) <= 4


def test_the_label_stream_is_never_used(monkeypatch):
    seen = {}
    monkeypatch.setattr(ranges, "_fast_range", lambda name, inputs, values: seen.update(values))
    ranges.torch_range(("send_query", 1, 2, "0>1", 3, 4))
    assert seen == {
        "category": "communication",
        "layer": 1,
        "micro_batch": 2,
        "channel": "0>1",
        "sequence": 3,
        "bytes": 4,
    }
