"""Energy by a counter and by power, against scipy and a machine whose power is known."""

import time

import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import trapezoid

from fapool.instrument.energy import CounterGauge, EnergyMeter, PowerGauge, gauge_of, integrate
from fapool.phases import ENERGY

SAMPLES = st.lists(st.tuples(st.integers(1, 10**9), st.integers(0, 700_000)), max_size=30)


@given(SAMPLES)
def test_power_is_integrated_as_scipy_does(steps):
    at, samples = 0, []
    for length, power in steps:
        at += length
        samples.append((at, power))
    expected = trapezoid([p for _, p in samples], [t / 1e9 for t, _ in samples]) if steps else 0
    assert integrate(samples) == pytest.approx(expected, abs=1, rel=1e-9)


def test_nanoseconds_of_an_epoch_are_not_rounded():
    day = 1_770_000_000_000_000_001
    assert integrate([(day, 1_000_000), (day + 2_000_000, 1_000_000)]) == 2_000


def test_a_steady_power_is_as_much_as_it_lasts():
    gauge = PowerGauge("GPU-0", lambda: 500_000, hz=50)
    began = time.perf_counter()
    gauge.start()
    time.sleep(0.15)
    took = gauge.stop()
    lasted = time.perf_counter() - began
    assert len(gauge._samples) >= 4
    assert 0.15 * 500_000 <= took <= lasted * 500_000
    assert not gauge._thread.is_alive()


def test_a_pass_is_what_the_counter_moved_from_its_begin_to_its_end():
    counter, clock = iter([100, 175, 300, 310]), iter(range(1_000, 1_004))
    meter = EnergyMeter(2, CounterGauge("GPU-a", lambda: next(counter)), lambda: next(clock))
    for repeat in (0, 1):
        meter.begin(repeat)
        meter.end()
    meter.end()  # nothing is open
    rows = pa.table(meter.columns(), schema=ENERGY).to_pylist()
    assert [(r["repeat"], r["millijoules"]) for r in rows] == [(0, 75), (1, 10)]
    assert [(r["begin_ns"], r["end_ns"]) for r in rows] == [(1_000, 1_001), (1_002, 1_003)]
    assert {(r["rank"], r["device"], r["method"]) for r in rows} == {(2, "GPU-a", "counter")}


def test_a_cpu_tells_nothing():
    assert gauge_of(torch.device("cpu")) is None
    meter = EnergyMeter(0, None, time.time_ns)
    meter.begin(0)
    meter.end()
    assert pa.table(meter.columns(), schema=ENERGY).num_rows == 0


@pytest.mark.gpu(1)
def test_a_gpu_takes_between_its_idle_power_and_its_limit():
    gauge = gauge_of(torch.device("cuda", 0))
    x = torch.randn(4096, 4096, device="cuda", dtype=torch.bfloat16)
    gauge.start()
    began = time.perf_counter()
    while time.perf_counter() - began < 2:
        for _ in range(20):
            x @ x
        torch.cuda.synchronize()
    watts = gauge.stop() / 1e3 / (time.perf_counter() - began)
    assert 50 < watts < 1200
