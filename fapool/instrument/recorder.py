"""Spans and steps of one rank: recorded in memory while it runs, read as tables afterwards.

Steps of a repeat share their borders: the end of one is, to the nanosecond, the start of the next.
The host may run ahead of the device: a step is closed when the host is done with it, and read
when the device is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from fapool.instrument.captured import Captures, GraphNodes
from fapool.instrument.device_clock import DeviceClock
from fapool.instrument.kept import Kept, OpenStep
from fapool.instrument.ranges import nvtx_ranges
from fapool.instrument.spans import (
    NO_SPAN,
    Clock,
    DeviceSpan,
    EventPool,
    GraphSpans,
    HostSpan,
    NoSpan,
    numbered,
)
from fapool.instrument.spans import no_span as no_span  # for those who record nothing
from fapool.instrument.totals import PRIORITY, StepTotals, partition
from fapool.phases import NO_SPANS, TRACED, Category, Phase, Role

HOST_CLOCK, CUDA_EVENTS, GRAPH_EVENTS = "host clock", "cuda events", "graph events"
_HOST_CATEGORIES = (Category.MANAGEMENT, Category.SYNCHRONIZATION)
_HOST_PHASES = frozenset(phase.value for phase in Phase if phase.category in _HOST_CATEGORIES)


class Recorder:
    """Records the spans and steps of one rank; for one thread.

    Host activities (management, synchronization) are timed by `clock`; the others by it as well on
    CPU, and by pairs of events on the current stream on CUDA. Graphs have events in them only on
    every `sample_every`-th decode step, the same on all ranks; the steps between have no spans.
    `unix_offset_ns` is added to `clock` to give Unix time on rank 0's clock; `device_clock` (None
    on CPU) gives the host's time of events. Settable at any time: `enabled` (False: spans cost and
    record nothing), `profiling` (True: spans also appear in the trace that torch.profiler takes)
    and `at_border` (called with the number of a step as it ends).

    Measured, in microseconds per span: off 0.3; by the host's clock 1; 0.5 more under an NVTX tool,
    3 more under torch's profiler; by CUDA events 14, on the slower of two hosts of an H200.
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
        sample_every: int = 16,
    ) -> None:
        self.rank, self.role, self.device = rank, role, device
        self.enabled, self.profiling = enabled, False
        self.clock, self.unix_offset_ns = clock, unix_offset_ns
        self.sample_every = sample_every
        self.at_border: Callable[[int], None] | None = None
        self.captures = Captures()
        self.nvtx = nvtx_ranges()
        self.events = EventPool(device) if device.type == "cuda" else None
        self.device_clock = DeviceClock(self.events, clock) if self.events else None
        self.host_spans: list = []  # of the step that is open
        self.device_spans: list = []
        self.graph_spans: tuple = ()
        self._capture: GraphSpans | None = None
        self._how = ""  # how the open step's spans are timed, where graphs are replayed
        self._start = 0  # of the step to be read next, by the host's clock
        self._repeat: int | None = None
        self._decoded = 0  # decode steps closed in this repeat
        self._kept = Kept()

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
        channel: str | tuple[str, ...] = "",
        sequence: int = -1,
        num_bytes: int | tuple[int, ...] = 0,
    ) -> HostSpan | DeviceSpan | NoSpan:
        """A context manager that records what runs inside it as one span.

        The labels are those of `fapool.phases.EVENTS`; -1 and "" say that there is none. Several
        channels with their bytes: what runs inside serves as many exchanges, and is kept for each.
        """
        if not self.enabled and self._capture is None:
            return NO_SPAN
        name = phase._value_
        labels = (name, layer, micro_batch, channel, sequence, num_bytes)
        if self._capture is not None:
            return NO_SPAN if name in _HOST_PHASES else self._capture.span(labels)
        if self.events is not None and name not in _HOST_PHASES:
            return DeviceSpan(self, labels)
        return HostSpan(self, labels)

    def begin(self, repeat: int) -> None:
        """Start a repeat: its first step begins now, on an idle device.

        Spans since the last step ended belong to no step and are dropped. A negative `repeat` is a
        warm-up: its steps give totals and are not kept; those of `TRACED` are kept apart.
        """
        self._give_back(self.device_spans)
        self.host_spans, self.device_spans = [], []
        self._repeat, self._decoded = repeat, 0
        self._start = self.clock()
        if self.device_clock is not None:
            self._start = self.device_clock.begin(repeat)

    def end(self) -> None:
        """End a repeat, on an idle device: `settled` knows its times from now on."""
        if self.device_clock is not None:
            self.device_clock.end()

    def close_step(
        self, *, step: int, kind: str, requests: int, tokens: int, leased: int, kv_tokens: int
    ) -> OpenStep:
        """End the open step; the next one begins at this very instant.

        On CUDA that is the instant at which the device gets here, which may be later. Arguments
        are the columns of `fapool.phases.STEPS`.
        """
        assert self._repeat is not None, "begin() comes before close_step()"
        end = self.events.record() if self.events is not None else self.clock()
        if self.at_border is not None:
            self.at_border(step)
        closed = OpenStep(
            (self._repeat, self.rank, step, self.role, kind),
            (requests, tokens, leased, kv_tokens, self._how or self.method),
            self.host_spans,
            self.device_spans,
            self.graph_spans,
            end,
        )
        self.host_spans, self.device_spans, self.graph_spans = [], [], ()
        self._how = ""
        self._decoded += kind == "decode"
        return closed

    def read_step(self, closed: OpenStep) -> StepTotals:
        """Wait for the end of a closed step, and keep it. Steps are read in order.

        A step without spans counts as idle throughout.
        """
        start, end, on_host, on_device = self._start, closed.end, closed.host_spans, []
        if self.device_clock is not None:
            end.synchronize()
            replayed = numbered(closed.graph_spans, closed.head[2])
            on_device = self._times(closed.device_spans) + self._times(replayed)
            self._give_back(closed.device_spans)
            end = self.device_clock.move(end)
        if closed.method == NO_SPANS:
            on_host, on_device = [], []
        self._start = end
        if closed.head[0] >= 0 or closed.head[0] == TRACED:
            self._kept.add((*closed.head, start, end, *closed.tail), on_host, on_device)
        return partition(
            start,
            end,
            [(s[1], s[2], PRIORITY[s[0][0]]) for s in (*on_host, *on_device)],
            known=closed.method != NO_SPANS or not self.enabled,
        )

    def end_step(self, **columns: Any) -> StepTotals:
        """Close a step and read it at once; see `close_step`."""
        return self.read_step(self.close_step(**columns))

    @property
    def read_until_ns(self) -> int:
        """End of the last step that was read, or the repeat's begin; Unix ns, not yet settled."""
        return self._start + self.unix_offset_ns

    @property
    def samples_now(self) -> bool:
        """Whether graphs that are replayed in the open step are the ones with events in them."""
        return self.enabled and self._decoded % self.sample_every == 0

    def replayed(self, spans: Sequence[tuple] | None) -> None:
        """A graph was replayed in the open step: with these spans in it, or with none at all.

        One without any makes it a step without spans.
        """
        bare = spans is None or self._how == NO_SPANS
        self._how = NO_SPANS if bare else GRAPH_EVENTS
        self.graph_spans = (*self.graph_spans, *(spans or ()))

    @contextmanager
    def capturing(self, spans: list | None, nodes: GraphNodes | None = None) -> Iterator[None]:
        """Meanwhile a graph is captured: device spans become events in it and go to `spans`.

        `nodes` is told what is captured within which span. Neither: nothing is recorded.
        """
        capture = GraphSpans(spans, nodes)
        self._capture = capture if spans is not None or nodes is not None else None
        try:
            with self.paused():
                yield
            capture.end()
        finally:
            self._capture = None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Meanwhile nothing is recorded, but for what a graph that is captured is given."""
        enabled, self.enabled = self.enabled, False
        try:
            yield
        finally:
            self.enabled = enabled

    def settled(self, repeat: int) -> Callable[[int], int]:
        """Makes of a step's border, Unix ns, what the rounds after its repeat say; keeps order."""
        if self.device_clock is None:
            return lambda time_ns: time_ns
        unix, settle = self.unix_offset_ns, self.device_clock.settle(repeat)
        return lambda time_ns: settle(time_ns - unix) + unix

    def columns(
        self, settle: Callable[[int], int] = lambda time_ns: time_ns, *, traced: bool = False
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """See `Kept.columns`, of the repeat `TRACED` or of all others; `settle`: `HostClock`'s."""
        return self._kept.columns(self.unix_offset_ns, settle, self.settled, traced=traced)

    def _times(self, spans: Sequence[tuple]) -> list[tuple]:
        """Spans of the step that is read; each event is asked once, though it may end two."""
        events = dict.fromkeys(event for _, *both in spans for event in both)
        at = {event: max(self.device_clock.at(event), self._start) for event in events}
        return [(labels, at[first], at[last]) for labels, first, last in spans]

    def _give_back(self, spans: Sequence[tuple]) -> None:
        for event in (event for _, *both in spans for event in both):
            self.events.give(event)
