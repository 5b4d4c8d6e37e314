"""What one rank's memory holds, by owner, in bytes: told where we know it, asked where torch does.

`kv_used` lies inside `kv`; `device` holds all the others, `allocator` all but memory that ranks
share for one-sided stores: they are not to be summed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import psutil
import torch
from torch.profiler import ProfilerActivity, profile

from fapool.phases import MEMORY, Owner

DRIVER_PAUSE_NS = 500_000_000
"""Between two questions to a GPU's driver: one takes as long as a short decode step does."""

_TOLD = (Owner.WEIGHTS, Owner.KV, Owner.KV_USED, Owner.BUFFERS)


class MemoryMeter:
    """Readings of one rank's memory, kept as rows of `fapool.phases.MEMORY`.

    Weights, KV and buffers are as last `set`. On CUDA the rest is asked of torch and the driver;
    on CPU `activations` is what was set (see `peak_transient_bytes`), `device` is this process's
    resident set, and there is no `allocator`. `pause_ns` is what should lie between two readings.
    The driver is asked more seldom: in between `device` changes as torch's own part of it does.
    """

    def __init__(
        self, rank: int, device: torch.device, clock: Callable[[], int] = time.perf_counter_ns
    ) -> None:
        self.rank, self.device, self._clock = rank, device, clock
        self._beside, self._driver_due_ns = 0, clock()  # on the device, but not torch's
        self.pause_ns = 50_000_000 if device.type == "cuda" else 0
        self._process = psutil.Process()
        self._told: dict[Owner, int] = dict.fromkeys(_TOLD, 0)
        self._latest: dict[Owner, int] = {}
        self._rows: list[tuple[int, int, int, int, str, int]] = []
        if device.type == "cuda":
            self.capacity_bytes = torch.cuda.get_device_properties(device).total_memory
            torch.cuda.reset_peak_memory_stats(device)
        else:
            self.capacity_bytes = psutil.virtual_memory().total
            self._told[Owner.ACTIVATIONS] = 0

    def set(self, owner: Owner, num_bytes: int) -> None:
        """Tell what an owner holds from now on. On CUDA, activations are measured, not told."""
        assert owner in self._told, f"{owner} is measured on {self.device.type}"
        self._told[owner] = num_bytes

    def forget_peak(self) -> None:
        """Measure activations anew: what came before was not of the workload."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def read(self, repeat: int, step: int, time_ns: int) -> None:
        """Read every owner once, after a step, on an idle device; `time_ns` is Unix time.

        Activations are the most that was allocated beyond what is left since the last reading. A
        negative `repeat` is a warm-up: read, not kept.
        """
        self._latest = self._told | self._asked()
        if repeat >= 0:
            head = (repeat, self.rank, step, time_ns)
            self._rows += [(*head, owner.value, held) for owner, held in self._latest.items()]

    def latest(self) -> dict[str, int]:
        """Owner -> bytes of the newest reading; empty before the first."""
        return {owner.value: held for owner, held in self._latest.items()}

    def columns(
        self, settle: Callable[[int], int] = lambda time_ns: time_ns
    ) -> dict[str, list[Any]]:
        """All kept readings, as the columns of `fapool.phases.MEMORY`; see `HostClock.settle`."""
        values = zip(*self._rows, strict=True) if self._rows else ((),) * len(MEMORY.names)
        found = {name: list(column) for name, column in zip(MEMORY.names, values, strict=True)}
        return found | {"time_ns": [settle(time_ns) for time_ns in found["time_ns"]]}

    def _asked(self) -> dict[Owner, int]:
        if self.device.type != "cuda":
            return {Owner.DEVICE: self._process.memory_info().rss}
        stats = torch.cuda.memory_stats_as_nested_dict(self.device)
        allocated = stats["allocated_bytes"]["all"]
        reserved = stats["reserved_bytes"]["all"]["current"]
        torch.cuda.reset_peak_memory_stats(self.device)
        if (now := self._clock()) >= self._driver_due_ns:
            free, total = torch.cuda.mem_get_info(self.device)
            self._beside, self._driver_due_ns = total - free - reserved, now + DRIVER_PAUSE_NS
        return {
            Owner.ACTIVATIONS: allocated["peak"] - allocated["current"],
            Owner.ALLOCATOR: reserved,
            Owner.DEVICE: self._beside + reserved,
        }


def peak_transient_bytes(fn: Callable[[], Any]) -> int:
    """Most bytes of CPU tensors that `fn` held at once beyond those it found; runs it once.

    For CPU, where the allocator keeps no peak: run a warm-up step through it. It takes a profiler
    pass, and so must not run while another profiler does.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        fn()
    records = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = peak = 0
    for record in sorted(records, key=lambda record: record.start_ns()):
        held += record.nbytes()
        peak = max(peak, held)
    return peak
