"""The context managers behind `Recorder.span`: by the host's clock, by CUDA events, or nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch

from fapool.instrument.captured import GraphNodes
from fapool.instrument.ranges import Labels, NvtxRanges, torch_range
from fapool.instrument.streams import current_stream
from fapool.phases import Phase, replayed_sequence

Clock = Callable[[], int]
"""Nanoseconds from any origin, never going back."""


class Sink(Protocol):
    """Where spans leave their times when they close."""

    clock: Clock
    profiling: bool
    nvtx: NvtxRanges | None
    host_spans: list[tuple[Labels, int, int]]
    device_spans: list[tuple[Labels, torch.cuda.Event, torch.cuda.Event]]
    events: EventPool | None


class NoSpan:
    """Measures nothing; one object serves all."""

    __slots__ = ()

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        return None


NO_SPAN = NoSpan()


def no_span(phase: Phase, **labels: Any) -> NoSpan:
    """Takes the place of `Recorder.span` where nothing is recorded."""
    return NO_SPAN


class Span:
    """Announces itself to outside profilers, if any listen; subclasses take the time.

    The time is taken inside the announcements, so that these do not count.
    """

    __slots__ = ("_labels", "_range", "_sink", "_start")

    def __init__(self, sink: Sink, labels: Labels) -> None:
        self._sink, self._labels = sink, labels
        self._range: AbstractContextManager[Any] | None = None

    def _announce(self) -> None:
        if self._sink.nvtx is not None:
            self._sink.nvtx.push(self._labels)
        if self._sink.profiling:
            self._range = torch_range(self._labels)
            self._range.__enter__()

    def _withdraw(self) -> None:
        if self._range is not None:
            self._range.__exit__(None, None, None)
        if self._sink.nvtx is not None:
            self._sink.nvtx.pop()


class HostSpan(Span):
    """Timed by the host's clock: host activities, and everything where there is no device."""

    __slots__ = ()

    def __enter__(self) -> None:
        sink = self._sink
        if sink.profiling or sink.nvtx is not None:
            self._announce()
        self._start = sink.clock()

    def __exit__(self, *_: object) -> None:
        sink = self._sink
        sink.host_spans.append((self._labels, self._start, sink.clock()))
        if self._range is not None or sink.nvtx is not None:
            self._withdraw()


class DeviceSpan(Span):
    """Timed by a pair of CUDA events on the stream that is current where it opens and closes."""

    __slots__ = ()

    def __enter__(self) -> None:
        sink = self._sink
        if sink.profiling or sink.nvtx is not None:
            self._announce()
        self._start = sink.events.record()

    def __exit__(self, *_: object) -> None:
        sink = self._sink
        sink.device_spans.append((self._labels, self._start, sink.events.record()))
        if self._range is not None or sink.nvtx is not None:
            self._withdraw()


class GraphSpans:
    """Spans of a graph that is captured: parted by events that every replay records anew, or known
    by the nodes that were captured inside them, or both.

    By events, a span begins where the one before it ended, so that a border costs one event and
    what lies between two spans counts to the second.
    """

    def __init__(self, spans: list | None, nodes: GraphNodes | None = None) -> None:
        """`spans`: where spans with events go; None: no events. `nodes`: where nodes go."""
        self._spans, self._nodes = spans, nodes
        self._border: torch.cuda.Event | None = None

    def span(self, labels: Labels) -> GraphSpan:
        """A context manager that puts what is captured inside it down as one span."""
        return GraphSpan(self, labels)

    def open(self, labels: Labels) -> torch.cuda.Event | None:
        """Begin a span: at the event that is given back, if there are events."""
        if self._nodes is not None:
            self._nodes.enter(labels)
        if self._spans is not None and self._border is None:
            self._border = self._event()
        return self._border

    def close(self, labels: Labels, start: torch.cuda.Event | None) -> None:
        """End the innermost span here."""
        if self._nodes is not None:
            self._nodes.leave()
        if self._spans is not None:
            self._border = self._event()
            self._spans.append((labels, start, self._border))

    def end(self) -> None:
        """Nothing more is captured."""
        if self._nodes is not None:
            self._nodes.end()

    def _event(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True, external=True)
        event.record()
        return event


class GraphSpan:
    """One span of `GraphSpans`."""

    __slots__ = ("_labels", "_of", "_start")

    def __init__(self, of: GraphSpans, labels: Labels) -> None:
        self._of, self._labels = of, labels

    def __enter__(self) -> None:
        self._start = self._of.open(self._labels)

    def __exit__(self, *_: object) -> None:
        self._of.close(self._labels, self._start)


def numbered(spans: Sequence[tuple], step: int) -> list[tuple]:
    """A graph's spans as of one replay: its exchanges get numbers that no other step has.

    In the graph they bear those of its capture, alike on all ranks and in every replay.
    """
    found = []
    for labels, first, last in spans:
        phase, layer, micro_batch, channel, sequence, num_bytes = labels
        if sequence >= 0:
            own = replayed_sequence(step, sequence)
            labels = (phase, layer, micro_batch, channel, own, num_bytes)
        found.append((labels, first, last))
    return found


class EventPool:
    """Timing events of one device, made once and used again."""

    __slots__ = ("_device", "_free")

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._free: list[torch.cuda.Event] = []

    def record(self) -> torch.cuda.Event:
        """An event, recorded now on the current stream."""
        event = self._next()
        event.record(current_stream(self._device))
        return event

    def record_after(self, clock: Callable[[], int]) -> tuple[int, torch.cuda.Event]:
        """What `clock` says, and an event that is recorded right then."""
        event, stream = self._next(), current_stream(self._device)
        before = clock()
        event.record(stream)
        return before, event

    def give(self, event: torch.cuda.Event) -> None:
        """Back into the pool, once its time has been read."""
        self._free.append(event)

    def _next(self) -> torch.cuda.Event:
        return self._free.pop() if self._free else torch.cuda.Event(enable_timing=True)
