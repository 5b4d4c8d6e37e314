"""What a GPU takes while a pass is measured: NVML's counter, or its power, read and integrated.

It is the whole device's, whoever uses it: idle power and other processes are in it. The counter
moves every 20 to 100 ms, so that a pass of a second is off by a few percent at most.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Protocol

import torch

from fapool.phases import ENERGY

try:
    import pynvml
except ImportError:
    pynvml = None

LOG = logging.getLogger("fapool")
HZ = 5.0
"""Readings of power a second, where there is no counter."""

COUNTER, INTEGRATED = "counter", "power, integrated"

Clock = Callable[[], int]


class Gauge(Protocol):
    """Measures one device between `start` and `stop`."""

    device: str  # UUID
    method: str

    def start(self) -> None:
        """From now on."""

    def stop(self) -> int:
        """Millijoules since `start`."""


class CounterGauge:
    """By a counter of millijoules that only grows."""

    method = COUNTER

    def __init__(self, device: str, read: Callable[[], int]) -> None:
        self.device, self._read, self._first = device, read, 0

    def start(self) -> None:
        """See `Gauge.start`."""
        self._first = self._read()

    def stop(self) -> int:
        """See `Gauge.stop`."""
        return self._read() - self._first


class PowerGauge:
    """By milliwatts, read `hz` times a second in a thread of its own, and at both ends."""

    method = INTEGRATED

    def __init__(
        self,
        device: str,
        read: Callable[[], int],
        hz: float = HZ,
        clock: Clock = time.perf_counter_ns,
    ) -> None:
        self.device, self._read, self._pause_s, self._clock = device, read, 1 / hz, clock
        self._samples: list[tuple[int, int]] = []
        self._ended = threading.Event()
        self._thread = threading.Thread()

    def start(self) -> None:
        """See `Gauge.start`."""
        self._samples, self._ended = [], threading.Event()
        self._sample()
        self._thread = threading.Thread(target=self._keep_sampling, daemon=True)
        self._thread.start()

    def stop(self) -> int:
        """See `Gauge.stop`."""
        self._ended.set()
        self._thread.join()
        self._sample()
        return integrate(self._samples)

    def _sample(self) -> None:
        self._samples.append((self._clock(), self._read()))

    def _keep_sampling(self) -> None:
        while not self._ended.wait(self._pause_s):
            self._sample()


def integrate(samples: Sequence[tuple[int, int]]) -> int:
    """(ns, milliwatts) in order of time -> millijoules, by the trapezoidal rule."""
    steps = pairwise(samples)
    return sum((p + q) * (t - s) for (s, p), (t, q) in steps) // (2 * 10**9)


class EnergyMeter:
    """Rows of `fapool.phases.ENERGY` of one rank; none where nothing tells what it takes."""

    def __init__(self, rank: int, gauge: Gauge | None, clock: Clock) -> None:
        """`clock`: Unix ns."""
        self._rank, self._gauge, self._clock = rank, gauge, clock
        self._rows: list[tuple] = []
        self._begun: tuple[int, int] | None = None

    def begin(self, repeat: int) -> None:
        """A pass begins."""
        assert self._begun is None, "end() comes before another begin()"
        if self._gauge is not None:
            self._gauge.start()
            self._begun = repeat, self._clock()

    def end(self) -> None:
        """The pass is over, and the device idle."""
        if self._begun is None:
            return
        took, gauge = self._gauge.stop(), self._gauge
        repeat, begin_ns = self._begun
        head = repeat, self._rank, gauge.device, begin_ns, self._clock()
        self._rows.append((*head, took, gauge.method))
        self._begun = None

    def columns(self) -> dict[str, list[Any]]:
        """All passes, as the columns of `fapool.phases.ENERGY`."""
        values = zip(*self._rows, strict=True) if self._rows else ((),) * len(ENERGY.names)
        return {name: list(column) for name, column in zip(ENERGY.names, values, strict=True)}


def gauge_of(device: torch.device) -> Gauge | None:
    """What measures `device`; None, and a line in the log, where nothing does."""
    if device.type != "cuda":
        return None
    if pynvml is None:
        LOG.warning("no energy: the package nvidia-ml-py is not installed")
        return None
    try:
        return _nvml_gauge(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
    except pynvml.NVMLError as error:
        LOG.warning("no energy: %s", error)
        return None


def _nvml_gauge(uuid: str) -> Gauge:
    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
    try:
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except pynvml.NVMLError:
        pynvml.nvmlDeviceGetPowerUsage(handle)  # or nothing is known
        gauge = PowerGauge(uuid, lambda: pynvml.nvmlDeviceGetPowerUsage(handle))
    else:
        gauge = CounterGauge(uuid, lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle))
    weakref.finalize(gauge, pynvml.nvmlShutdown)
    return gauge
