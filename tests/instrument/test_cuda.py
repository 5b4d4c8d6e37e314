"""On a GPU: spans are timed by events, and steps, memory and traces say what the device did."""

import gzip
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from multiprocessing import get_context

import orjson
import pytest
import torch

from fapool.instrument.memory import MemoryMeter
from fapool.instrument.recorder import Recorder
from fapool.instrument.window import ProfilerWindow
from fapool.phases import Category, Owner, Phase, Role
from fapool.store import RunFolder

pytestmark = pytest.mark.gpu
LABELS = {"kind": "decode", "requests": 1, "tokens": 1, "leased": 0, "kv_tokens": 0}
SLEEP_CYCLES = 20_000_000  # some 10 ms


def recorder() -> Recorder:
    return Recorder(rank=0, role=Role.BASE, device=torch.device("cuda", 0))


def test_a_span_lasts_as_long_as_its_kernels_and_not_as_its_launch():
    found = recorder()
    found.begin(-1)
    for step in range(3):  # the first event and kernel of a process take longer
        with found.span(Phase.FFN):
            torch.cuda._sleep(SLEEP_CYCLES)
        with found.span(Phase.DEVICE_SYNC):
            torch.cuda.synchronize()
        found.begin(0) if step == 0 else None
        totals = found.end_step(step=step, **LABELS)
    assert totals.category_ns[Category.COMPUTE] > 0.8 * totals.wall_ns
    assert totals.wall_ns > 5_000_000
    events, steps = found.columns()
    assert set(steps["method"]) == {"cuda events"}
    by_step = [events[name] for name in ("step", "phase", "start_ns", "end_ns")]
    for step, phase, start, end in zip(*by_step, strict=True):
        row = steps["step"].index(step)
        assert steps["start_ns"][row] <= start <= end <= steps["end_ns"][row]
        assert phase == "ffn" or end - start > 5_000_000


def test_events_are_used_again():
    found = recorder()
    found.begin(0)
    for step in range(4):
        for layer in range(5):
            with found.span(Phase.FFN, layer=layer):
                pass
        torch.cuda.synchronize()
        found.end_step(step=step, **LABELS)
        if step == 0:
            made = len(found.events._free)
    assert len(found.events._free) == made <= 12


def test_activations_are_what_a_step_held_for_a_while():
    meter = MemoryMeter(0, torch.device("cuda", 0))
    kept = torch.zeros(1 << 20, device="cuda")
    meter.read(0, 0, 0)
    torch.zeros(1 << 21, device="cuda", dtype=torch.uint8)
    meter.read(0, 1, 1)
    latest = meter.latest()
    assert latest[Owner.ACTIVATIONS] == 1 << 21
    assert latest[Owner.ALLOCATOR] >= kept.nbytes
    assert latest[Owner.ALLOCATOR] < latest[Owner.DEVICE] < meter.capacity_bytes


def test_what_was_held_before_the_workload_is_no_activation_of_it():
    meter = MemoryMeter(0, torch.device("cuda", 0))
    torch.zeros(1 << 24, device="cuda", dtype=torch.uint8)
    meter.forget_peak()
    meter.read(0, 0, 0)
    assert meter.latest()[Owner.ACTIVATIONS] == 0


def test_a_window_sees_kernels(tmp_path):
    found = recorder()
    window = ProfilerWindow(RunFolder(tmp_path), 0, 1, found, 0, 1)
    x = torch.randn(512, 512, device="cuda")
    torch.cuda._sleep(SLEEP_CYCLES)  # the device gets to the step long after the host
    window.step_begins(0)
    with found.span(Phase.FFN, layer=3):
        x @ x
    torch.cuda.synchronize()
    window.step_ends(0)
    trace = orjson.loads(gzip.decompress(window.close().read_bytes()))
    kinds = {event.get("cat") for event in trace["traceEvents"]}
    assert {"kernel", "cpu_op", "user_annotation"} <= kinds
    assert window.line is not None and window.line.uncertainty_ns < 500_000


def test_spans_of_a_replay_lie_inside_their_step_and_fill_it():
    found, spans, graph = recorder(), [], torch.cuda.CUDAGraph()
    x = torch.randn(2048, 2048, device="cuda")

    def body() -> None:
        with found.span(Phase.SEND_QUERY, layer=0, channel="0>1", sequence=5, num_bytes=1):
            torch.cuda._sleep(SLEEP_CYCLES // 10)
        for layer in range(3):
            with found.span(Phase.FFN, layer=layer):
                torch.cuda._sleep(SLEEP_CYCLES // 10)
                x @ x

    body()
    torch.cuda.synchronize()
    with found.capturing(spans), torch.cuda.graph(graph, capture_error_mode="thread_local"):
        body()
    graph.replay()  # the first one also brings the graph to the device
    torch.cuda.synchronize()
    found.begin(0)
    filled = []
    for step in range(3):
        graph.replay()
        found.replayed(spans)
        totals = found.end_step(step=step, **LABELS)
        busy = totals.category_ns[Category.COMPUTE] + totals.category_ns[Category.COMMUNICATION]
        filled.append(busy / totals.wall_ns)
    assert 0.9 < max(filled) <= 1  # the host may be late for some
    events, steps = found.columns()
    assert set(steps["method"]) == {"graph events"}
    assert len(events["step"]) == 3 * 4
    assert len({s for s in events["sequence"] if s >= 0}) == 3
    rows = list(zip(events["step"], events["start_ns"], events["end_ns"], strict=True))
    for step, start, end in rows:
        row = steps["step"].index(step)
        assert steps["start_ns"][row] <= start <= end <= steps["end_ns"][row]
    for (step, _, end), (following, start, _) in pairwise(rows):
        assert start == end or step != following


def test_device_times_are_the_hosts_within_five_microseconds():
    """In a process of its own, as ranks are: other tests leave a profiler behind."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
        fresh.submit(device_times_are_the_hosts).result()


def device_times_are_the_hosts() -> None:
    for _ in range(5):  # how soon a host has its answer says more of who else works there
        found = played()
        about = found.device_clock.about()
        if about["uncertainty_ns"] <= 5_000:
            break
    assert about["notes"] == []
    assert about["uncertainty_ns"] <= 5_000, about
    events, _ = found.columns()
    by_phase = {
        phase: [
            (start, end)
            for name, start, end in zip(
                events["phase"], events["start_ns"], events["end_ns"], strict=True
            )
            if name == phase
        ]
        for phase in ("plan_step", "ffn", "device_sync")
    }
    for (_, planned), (start, end), (_, synced) in zip(*by_phase.values(), strict=True):
        assert planned - about["uncertainty_ns"] <= start < end <= synced + about["uncertainty_ns"]


def played() -> Recorder:
    found = recorder()
    found.begin(0)
    for step in range(50):
        with found.span(Phase.PLAN_STEP):
            pass
        with found.span(Phase.FFN):
            torch.cuda._sleep(SLEEP_CYCLES // 10)
        with found.span(Phase.DEVICE_SYNC):
            torch.cuda.synchronize()
        found.end_step(step=step, **LABELS)
    found.end()
    return found
