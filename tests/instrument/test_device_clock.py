"""Events of a device whose clock is off, drifts and ticks coarsely come out in the host's time."""

import random
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fapool.instrument.device_clock import DeviceClock
from fapool.instrument.recorder import Recorder
from fapool.phases import Phase, Role

LABELS = {"kind": "decode", "requests": 1, "tokens": 1, "leased": 0, "kv_tokens": 0}
UNIX = 1_770_000_000_000_000_000


class Device:
    """A host's clock, and a device that gets to an event some microseconds after its launch."""

    def __init__(self, seed: int, drift: float, tick_ns: int = 32) -> None:
        self.random, self.drift, self.tick = random.Random(seed), drift, tick_ns
        self.host = 4_000_000_000_000
        self.given: list[Event] = []

    def clock(self) -> int:
        self.host += 100
        return self.host

    def record(self) -> "Event":
        self.host += 1_000
        return Event(self, self.host + 1_500 + round(self.random.expovariate(1 / 2_000)))

    def record_after(self, clock) -> tuple[int, "Event"]:
        return clock(), self.record()

    def give(self, event: "Event") -> None:
        self.given.append(event)

    def device_ns(self, host_ns: int) -> int:
        gone = host_ns - 4_000_000_000_000
        return round(gone * (1 + self.drift)) // self.tick * self.tick


@dataclass(eq=False)
class Event:
    device: Device
    host_ns: int  # when the device got here, in truth

    def elapsed_time(self, later: "Event") -> float:
        ticks = [self.device.device_ns(event.host_ns) for event in (self, later)]
        return float(np.float32((ticks[1] - ticks[0]) / 1e6))

    def query(self) -> bool:
        if self.device.host < self.host_ns:
            self.device.host += 50
            return False
        self.synchronize()
        return True

    def synchronize(self) -> None:
        self.device.host = max(self.device.host, self.host_ns) + 1_200
        self.device.host += round(self.device.random.expovariate(1 / 2_000))


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.floats(-1e-4, 1e-4), st.sampled_from([1, 32, 1_000]))
def test_settled_times_are_the_hosts_within_the_uncertainty(seed, drift, tick):
    device = Device(seed, drift, tick)
    clock = DeviceClock(device, device.clock)
    clock.begin(0)
    told = []
    for _ in range(40):
        device.host += 50_000_000
        event = device.record()
        event.synchronize()
        told.append((event.host_ns, clock.move(event)))
    clock.end()
    found, settle = clock.about(), clock.settle(0)
    for truth, said in told:
        assert abs(settle(said) - truth) <= found["uncertainty_ns"]
    assert abs(found["drift_ppb"] + drift * 1e9) <= found["drift_uncertainty_ppb"] + 1_000
    assert found["uncertainty_ns"] <= 2_500 + 2 * tick + drift * 1e6
    assert found["resolution_ns"] == tick or tick == 1
    assert found["notes"] == []


def test_before_a_repeat_is_over_its_times_are_what_the_device_counted():
    device = Device(3, 0.0)
    clock = DeviceClock(device, device.clock)
    start = clock.begin(0)
    event = device.record()
    event.synchronize()
    assert start <= clock.at(event) == clock.move(event)
    assert clock.settle(0)(start) == start
    clock.end()
    assert clock.settle(1)(start) == start  # of a repeat that it knows nothing of


@pytest.fixture
def recorder() -> Recorder:
    """On CPU, with a device's events in place of CUDA's."""
    device = Device(5, 8e-5)
    found = Recorder(
        rank=0,
        role=Role.BASE,
        device=torch.device("cpu"),
        clock=device.clock,
        unix_offset_ns=UNIX,
    )
    found.events, found.device_clock = device, DeviceClock(device, device.clock)
    return found


def test_steps_of_a_device_share_their_borders_after_all_is_settled(recorder):
    device, borders = recorder.events, []
    for repeat in range(2):
        recorder.begin(repeat)
        for step in range(5):
            with recorder.span(Phase.FFN):
                device.host += 30_000_000
            with recorder.span(Phase.PLAN_STEP):
                device.host += 1_000
            recorder.end_step(step=step, **LABELS)
            borders.append((repeat, recorder.read_until_ns))
        recorder.end()
    events, steps = recorder.columns(lambda time_ns: time_ns + 7)
    for row in range(1, 10):
        assert steps["start_ns"][row] == steps["end_ns"][row - 1] or row == 5
    settled = [recorder.settled(repeat)(time_ns) + 7 for repeat, time_ns in borders]
    assert steps["end_ns"] == settled
    assert {type(time_ns) for time_ns in events["start_ns"]} == {int}
    by_phase = dict(zip(events["phase"], events["end_ns"], strict=True))  # the last of each
    assert abs(by_phase["plan_step"] - (UNIX + device.host)) < 2_000_000
    for phase, start, end in zip(
        events["phase"], events["start_ns"], events["end_ns"], strict=True
    ):
        length = 30_000_000 if phase == "ffn" else 1_000
        assert end - start == pytest.approx(length, abs=20_000)
    used = [id(event) for event in device.given]
    assert len(used) == len(set(used))


def test_a_device_span_lies_beside_the_host_spans_around_it(recorder):
    device = recorder.events
    recorder.begin(0)
    for step in range(20):
        with recorder.span(Phase.PLAN_STEP):
            device.host += 5_000_000
        with recorder.span(Phase.FFN):
            device.host += 90_000_000
        recorder.end_step(step=step, **LABELS)
    recorder.end()
    events, _ = recorder.columns()
    spans = list(zip(events["phase"], events["start_ns"], events["end_ns"], strict=True))
    plans = [span for span in spans if span[0] == "plan_step"]
    ffns = [span for span in spans if span[0] == "ffn"]
    for (_, _, planned), (_, started, _) in zip(plans, ffns, strict=True):
        assert 0 <= started - planned < 30_000  # undrifted, it is 150 us off at the end
