"""Spans and steps of one rank: recorded in memory while it runs, read as tables afterwards.

Steps of a repeat share their borders: the end of one is, to the nanosecond, the start of the next.
"""

from __future__ import annotations

import time
from array import array
from typing import Any

import numpy as np
import torch

from fapool.instrument.ranges import nvtx_ranges
from fapool.instrument.spans import Clock, DeviceSpan, EventPool, HostSpan, NoSpan
from fapool.instrument.totals import StepTotals, partition
from fapool.phases import Category, Phase, Role

NO_SPAN = NoSpan()
HOST_CLOCK, CUDA_EVENTS, NO_SPANS = "host clock", "cuda events", "none"
_HOST_CATEGORIES = (Category.MANAGEMENT, Category.SYNCHRONIZATION)
_HOST_PHASES = frozenset(phase.value for phase in Phase if phase.category in _HOST_CATEGORIES)
_EVENT_INTS = ("repeat", "rank", "step", "layer", "micro_batch")
_EVENT_INTS += ("start_ns", "end_ns", "sequence", "bytes")
_STEP_COLUMNS = ("repeat", "rank", "step", "role", "kind", "start_ns", "end_ns")
_STEP_COLUMNS += ("requests", "tokens", "leased", "kv_tokens", "method")


def no_span(phase: Phase, **labels: Any) -> NoSpan:
    """Takes the place of `Recorder.span` where nothing is recorded."""
    return NO_SPAN


class Recorder:
    """Records the spans and steps of one rank; for one thread.

    Host activities (management, synchronization) are timed by `clock`; the others by it as well on
    CPU, and by pairs of events on the current stream on CUDA, never while a graph is captured.
    `unix_offset_ns` is added to `clock` to give Unix time on rank 0's clock. Settable at any time:
    `enabled` (False: spans cost and record nothing) and `profiling` (True: spans also appear in
    the trace that torch.profiler takes).
    """

    def __init__(
        self,
        *,
        rank: int,
        role: Role,
        device: torch.device,
        enabled: bool = True,
        clock: Clock = time.perf_counter_ns,
        unix_offset_ns: int = 0,
    ) -> None:
        self.rank, self.role, self.device = rank, role, device
        self.enabled, self.profiling = enabled, False
        self.clock, self.unix_offset_ns = clock, unix_offset_ns
        self.nvtx = nvtx_ranges()
        self.events = EventPool()
        self.host_spans: list = []  # of the step that is open
        self.device_spans: list = []
        self._on_cuda = device.type == "cuda"
        self._anchor: torch.cuda.Event | None = None  # on the device, where the step began
        self._repeat: int | None = None
        self._start = 0
        self._ints = {name: array("q") for name in _EVENT_INTS}
        self._phases: list[Phase] = []
        self._channels: list[str] = []
        self._steps: list[tuple] = []

    def span(
        self,
        phase: Phase,
        *,
        layer: int = -1,
        micro_batch: int = -1,
        channel: str = "",
        sequence: int = -1,
        num_bytes: int = 0,
    ) -> HostSpan | DeviceSpan | NoSpan:
        """A context manager that records what runs inside it as one span.

        The labels are those of `fapool.phases.EVENTS`; -1 and "" say that there is none.
        """
        if not self.enabled:
            return NO_SPAN
        labels = (phase, layer, micro_batch, channel, sequence, num_bytes)
        if self._on_cuda and phase._value_ not in _HOST_PHASES:
            return DeviceSpan(self, labels)
        return HostSpan(self, labels)

    def begin(self, repeat: int) -> None:
        """Start a repeat: its first step begins now, on an idle device.

        Spans since the last step ended belong to no step and are dropped. A negative `repeat` is a
        warm-up: its steps give totals like any other and are not kept.
        """
        self._drop_open_spans()
        self._repeat = repeat
        self._start = self._mark()

    def end_step(
        self, *, step: int, kind: str, requests: int, tokens: int, leased: int, kv_tokens: int
    ) -> StepTotals:
        """Close the open step; the next one begins at this very instant.

        The device must be idle: on CUDA the caller has just synchronised. Arguments are the columns
        of `fapool.phases.STEPS`. Where spans are disabled all of the step counts as idle.
        """
        assert self._repeat is not None, "begin() comes before end_step()"
        start, anchor = self._start, self._anchor
        self._start = end = self._mark()
        spans, self.host_spans = self.host_spans, []
        if anchor is not None:
            spans += self._read_device_spans(anchor, start, end)
        if self._repeat >= 0:
            self._keep_spans(step, spans)
            method = NO_SPANS if not self.enabled else CUDA_EVENTS if self._on_cuda else HOST_CLOCK
            unix = self.unix_offset_ns
            head = (self._repeat, self.rank, step, self.role, kind, start + unix, end + unix)
            self._steps.append((*head, requests, tokens, leased, kv_tokens, method))
        return partition(start, end, [(s[0][0].category, s[1], s[2]) for s in spans])

    def columns(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """All that was kept, as the columns of `EVENTS` and `STEPS`; times in Unix ns.

        Spans stand in the order in which they closed, per step; host spans before device spans.
        """
        events: dict[str, Any] = {
            name: np.array(values, dtype=np.int64) for name, values in self._ints.items()
        }
        events["phase"] = [phase.value for phase in self._phases]
        events["category"] = [phase.category.value for phase in self._phases]
        events["channel"] = list(self._channels)
        rows = zip(*self._steps, strict=True) if self._steps else [()] * len(_STEP_COLUMNS)
        return events, dict(zip(_STEP_COLUMNS, map(list, rows), strict=True))

    def _mark(self) -> int:
        """The time now, and on CUDA an event at it."""
        now = self.clock()
        if self._on_cuda:
            self._anchor = torch.cuda.Event(enable_timing=True)
            self._anchor.record(torch.cuda.current_stream(self.device))
        return now

    def _read_device_spans(self, anchor: torch.cuda.Event, start: int, end: int) -> list:
        def read(event: torch.cuda.Event) -> int:
            time_ns = start + round(anchor.elapsed_time(event) * 1e6)
            self.events.give(event)
            return min(max(time_ns, start), end)

        spans, self.device_spans = self.device_spans, []
        return [(labels, read(first), read(last)) for labels, first, last in spans]

    def _keep_spans(self, step: int, spans: list) -> None:
        if not spans:
            return
        labels, starts, ends = zip(*spans, strict=True)
        phases, layers, micro_batches, channels, sequences, sizes = zip(*labels, strict=True)
        same = (self._repeat, self.rank, step)
        unix = self.unix_offset_ns
        columns = [[value] * len(spans) for value in same]
        columns += [layers, micro_batches, [t + unix for t in starts], [t + unix for t in ends]]
        for name, values in zip(_EVENT_INTS, [*columns, sequences, sizes], strict=True):
            self._ints[name].extend(values)
        self._phases += phases
        self._channels += channels

    def _drop_open_spans(self) -> None:
        self.host_spans = []
        for _, first, last in self.device_spans:
            self.events.give(first)
            self.events.give(last)
        self.device_spans = []
