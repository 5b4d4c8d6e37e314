"""Spans and steps of one rank: recorded in memory while it runs, read as tables afterwards.

Steps of a repeat share their borders: the end of one is, to the nanosecond, the start of the next.
"""

from __future__ import annotations

import time
from typing import Any

import torch

from fapool.instrument.ranges import CATEGORY, nvtx_ranges
from fapool.instrument.spans import Clock, DeviceSpan, EventPool, HostSpan, NoSpan
from fapool.instrument.totals import PRIORITY, StepTotals, partition
from fapool.phases import Category, Phase, Role

NO_SPAN = NoSpan()
HOST_CLOCK, CUDA_EVENTS, NO_SPANS = "host clock", "cuda events", "none"
_HOST_CATEGORIES = (Category.MANAGEMENT, Category.SYNCHRONIZATION)
_HOST_PHASES = frozenset(phase.value for phase in Phase if phase.category in _HOST_CATEGORIES)
_LABELS = ("phase", "layer", "micro_batch", "channel", "sequence", "bytes")
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

    Measured, in microseconds per span: off 0.3. Recorded by the host's clock 0.8, and 0.25 more
    when its step ends; 0.5 more under an NVTX tool, 3 more while torch's profiler runs. By CUDA
    events, on the slower of two hosts of an H200 (off 0.6 there), 8, and 6 more when its step ends.
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
        self.events = EventPool(device) if device.type == "cuda" else None
        self.host_spans: list = []  # of the step that is open
        self.device_spans: list = []
        self._anchor: torch.cuda.Event | None = None  # on the device, as the step began
        self._repeat: int | None = None
        self._anchor_ns = 0  # the host's time there
        self._start = 0
        self._steps: list[tuple] = []
        self._spans: list[list] = []  # of each of these steps

    @property
    def method(self) -> str:
        """How spans are timed now, as `fapool.phases.STEPS` says it."""
        return (CUDA_EVENTS if self.events else HOST_CLOCK) if self.enabled else NO_SPANS

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
        name = phase._value_
        labels = (name, layer, micro_batch, channel, sequence, num_bytes)
        if self.events is not None and name not in _HOST_PHASES:
            return DeviceSpan(self, labels)
        return HostSpan(self, labels)

    def begin(self, repeat: int) -> None:
        """Start a repeat: its first step begins now, on an idle device.

        Spans since the last step ended belong to no step and are dropped. A negative `repeat` is a
        warm-up: its steps give totals like any other and are not kept.
        """
        self._drop_open_spans()
        self._repeat = repeat
        self._start = self.clock()
        self._set_anchor()

    def end_step(
        self, *, step: int, kind: str, requests: int, tokens: int, leased: int, kv_tokens: int
    ) -> StepTotals:
        """Close the open step; the next one begins at this very instant.

        The device must be idle: on CUDA the caller has just synchronised. Arguments are the columns
        of `fapool.phases.STEPS`. Where spans are disabled all of the step counts as idle.
        """
        assert self._repeat is not None, "begin() comes before end_step()"
        start, end = self._start, self.clock()
        spans, self.host_spans = self.host_spans, []
        spans += self._read_device_spans(start, end)
        self._start = end
        self._set_anchor()
        if self._repeat >= 0:
            unix = self.unix_offset_ns
            head = (self._repeat, self.rank, step, self.role, kind, start + unix, end + unix)
            self._steps.append((*head, requests, tokens, leased, kv_tokens, self.method))
            self._spans.append(spans)
        return partition(start, end, [(s[1], s[2], PRIORITY[s[0][0]]) for s in spans])

    def columns(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """All that was kept, as the columns of `EVENTS` and `STEPS`; times in Unix ns.

        Spans stand in the order in which they closed, per step; host spans before device spans.
        """
        steps = _transpose(_STEP_COLUMNS, self._steps)
        flat = [span for spans in self._spans for span in spans]
        events = _transpose(_LABELS, [labels for labels, _, _ in flat])
        unix = self.unix_offset_ns
        events["start_ns"] = [start + unix for _, start, _ in flat]
        events["end_ns"] = [end + unix for _, _, end in flat]
        events["category"] = [CATEGORY[phase].value for phase in events["phase"]]
        for name in ("repeat", "rank", "step"):
            rows = zip(steps[name], self._spans, strict=True)
            events[name] = [value for value, spans in rows for _ in spans]
        return events, steps

    def _set_anchor(self) -> None:
        """Tie the device's clock to the host's, on an idle stream.

        Only after the last step was read: while an event is pending, reading others takes three
        times as long.
        """
        if self.events is None:
            return
        if self._anchor is not None:
            self.events.give(self._anchor)
        self._anchor_ns = self.clock()
        self._anchor = self.events.record()

    def _read_device_spans(self, start: int, end: int) -> list:
        spans, self.device_spans = self.device_spans, []
        if not spans:
            return []
        anchor, anchor_ns, events = self._anchor, self._anchor_ns, self.events
        assert anchor is not None and events is not None
        timed = []
        for labels, first, last in spans:
            first_ns = anchor_ns + round(anchor.elapsed_time(first) * 1e6)
            last_ns = anchor_ns + round(anchor.elapsed_time(last) * 1e6)
            timed.append((labels, max(min(first_ns, end), start), max(min(last_ns, end), start)))
            events.give(first)
            events.give(last)
        return timed

    def _drop_open_spans(self) -> None:
        self.host_spans = []
        for _, first, last in self.device_spans:
            self.events.give(first)
            self.events.give(last)
        self.device_spans = []


def _transpose(names: tuple[str, ...], rows: list[tuple]) -> dict[str, list]:
    columns = zip(*rows, strict=True) if rows else ((),) * len(names)
    return {name: list(column) for name, column in zip(names, columns, strict=True)}
