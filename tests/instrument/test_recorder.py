"""On a fake clock: what a recorder keeps, to the nanosecond, and what it leaves out."""

import timeit

import pyarrow as pa
import pytest
import torch

from fapool.instrument import ranges
from fapool.instrument.recorder import Recorder, no_span
from fapool.instrument.spans import numbered
from fapool.phases import EVENTS, STEPS, TRACED, Category, Phase, Role

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


def test_steps_may_be_closed_before_the_ones_ahead_are_read(recorder, clock):
    recorder.begin(0)
    closed = []
    for step, length in enumerate((10, 20, 30)):
        with recorder.span(Phase.FFN, layer=step):
            clock.go(length)
        closed.append(recorder.close_step(step=step, **LABELS))
    clock.go(500)
    spans = [recorder.read_step(step).category_ns[Category.COMPUTE] for step in closed]
    assert spans == [10, 20, 30]
    assert recorder.read_until_ns == 1_000 + 60 + 5_000_000
    events, steps = recorder.columns()
    assert events["layer"] == events["step"] == [0, 1, 2]
    assert steps["start_ns"] == [5_001_000, 5_001_010, 5_001_030]


def test_a_step_whose_graph_has_no_events_has_no_spans_and_says_so(recorder, clock):
    recorder.begin(0)
    for spans in ([], None, []):
        with recorder.span(Phase.PLAN_STEP):
            clock.go(5)
        recorder.replayed(spans)
        totals = recorder.end_step(step=recorder._decoded, **LABELS)
        assert totals.known == (spans is not None)
        assert totals.category_ns[Category.MANAGEMENT] == (5 if totals.known else 0)
    events, steps = recorder.columns()
    assert steps["method"] == ["graph events", "none", "graph events"]
    assert events["step"] == [0, 2]


def test_one_graph_without_events_makes_it_a_step_without_spans(recorder):
    recorder.begin(0)
    for replays in ([None, []], [[], None]):
        for spans in replays:
            recorder.replayed(spans)
        assert recorder.close_step(step=0, **LABELS).method == "none"
    assert recorder.close_step(step=1, **LABELS).method == "host clock"


@pytest.mark.parametrize("asks", [lambda step: True, lambda step: step > 3], ids=["base", "pool"])
def test_ranks_sample_the_same_decode_steps_whichever_of_them_they_replay(clock, asks):
    recorder = Recorder(rank=0, role=Role.BASE, device=CPU, clock=clock, sample_every=3)
    kinds = ["prefill", *["decode"] * 4, "prefill", *["decode"] * 5]
    for repeat in range(2):
        recorder.begin(repeat)
        sampled = []
        for step, kind in enumerate(kinds):
            if kind == "decode" and asks(step) and recorder.samples_now:
                assert recorder.samples_now  # however often it is asked
                sampled.append(step)
            recorder.end_step(step=step, **(LABELS | {"kind": kind}))
        assert sampled == [step for step in (1, 4, 8) if asks(step)]


def test_nothing_is_sampled_where_no_spans_are_wanted():
    recorder = Recorder(rank=0, role=Role.BASE, device=CPU, enabled=False, sample_every=1)
    recorder.begin(0)
    assert not recorder.samples_now


def test_a_span_that_serves_several_exchanges_is_kept_for_each(recorder, clock):
    recorder.begin(0)
    several = {"channel": ("3>0", "3>1"), "sequence": 9, "num_bytes": (64, 32)}
    with recorder.span(Phase.SEND_PARTIALS, layer=2, **several):
        clock.go(20)
    totals = recorder.end_step(step=0, **LABELS)
    assert totals.category_ns[Category.COMMUNICATION] == 20
    events, _ = recorder.columns()
    assert events["channel"] == ["3>0", "3>1"]
    assert events["bytes"] == [64, 32]
    assert events["sequence"] == [9, 9]
    assert events["start_ns"][0] == events["start_ns"][1]
    assert pa.table(events, schema=EVENTS).num_rows == 2


def test_profilers_see_a_span_of_several_exchanges_once(recorder, monkeypatch):
    seen, domain = {}, FakeDomain()
    monkeypatch.setattr(ranges, "_fast_range", lambda name, inputs, values: seen.update(values))
    labels = ("send_kv", -1, -1, ("0>1", "0>2"), 3, (4, 6))
    ranges.torch_range(labels)
    assert (seen["channel"], seen["bytes"]) == ("0>1,0>2", 10)
    ranges.NvtxRanges(domain).push(labels)
    assert domain.calls == ["send_kv"]


def test_a_capture_that_fails_leaves_spans_as_they_were(recorder, clock):
    recorder.begin(0)
    with pytest.raises(ZeroDivisionError), recorder.capturing([]):
        raise ZeroDivisionError
    with recorder.span(Phase.FFN):
        clock.go(7)
    assert recorder.end_step(step=0, **LABELS).category_ns[Category.COMPUTE] == 7


def test_exchanges_of_a_graph_have_numbers_of_their_own_in_every_step():
    graph = [(("send_query", layer, -1, "0>1", 40 + layer, 8), 0, 0) for layer in range(3)]
    graph.append((("ffn", 0, -1, "", -1, 0), 0, 0))
    replays = [numbered(graph, step) for step in (1, 2, 3)]
    found = [labels[4] for spans in replays for labels, _, _ in spans]
    assert found[:4] == [(1 << 20) + 40, (1 << 20) + 41, (1 << 20) + 42, -1]
    assert len(set(found)) == 3 * 3 + 1
    assert [labels[:4] for labels, _, _ in replays[2]] == [labels[:4] for labels, _, _ in graph]


def test_traced_steps_are_kept_apart_and_other_warm_ups_are_not(recorder, clock):
    for repeat, phase in ((-1, Phase.EMBED), (0, Phase.FFN), (TRACED, Phase.MERGE)):
        recorder.begin(repeat)
        with recorder.span(phase):
            clock.go(7)
        recorder.end_step(step=1, **LABELS)
    for traced, repeat, phase in ((False, 0, "ffn"), (True, TRACED, "merge")):
        events, steps = recorder.columns(traced=traced)
        assert (events["repeat"], events["phase"]) == ([repeat], [phase])
        assert (steps["repeat"], steps["step"]) == ([repeat], [1])


def test_the_end_of_a_step_is_announced_at_its_border(recorder, clock):
    ended = []
    recorder.at_border = lambda step: (ended.append((step, clock.now)), clock.go(3))
    recorder.begin(0)
    for step in (4, 5):
        clock.go(10)
        recorder.end_step(step=step, **LABELS)
    _, steps = recorder.columns()
    assert ended == [(4, 1_010), (5, 1_023)]
    assert [end - 5_000_000 for end in steps["end_ns"]] == [1_010, 1_023]
