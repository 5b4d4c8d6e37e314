"""The context managers behind `Recorder.span`: by the host's clock, by CUDA events, or nothing."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch

from fapool.instrument.ranges import Labels, NvtxRanges, torch_range

Clock = Callable[[], int]
"""Nanoseconds from any origin, never going back."""


class Sink(Protocol):
    """Where spans leave their times when they close."""

    clock: Clock
    profiling: bool
    nvtx: NvtxRanges | None
    host_spans: list[tuple[Labels, int, int]]
    device_spans: list[tuple[Labels, torch.cuda.Event, torch.cuda.Event]]
    events: EventPool


class NoSpan:
    """Measures nothing; one object serves all."""

    __slots__ = ()

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        return None


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
        self._start = sink.events.take()
        self._start.record()

    def __exit__(self, *_: object) -> None:
        sink = self._sink
        end = sink.events.take()
        end.record()
        sink.device_spans.append((self._labels, self._start, end))
        if self._range is not None or sink.nvtx is not None:
            self._withdraw()


class EventPool:
    """Timing events, made once and used again."""

    __slots__ = ("_free",)

    def __init__(self) -> None:
        self._free: list[torch.cuda.Event] = []

    def take(self) -> torch.cuda.Event:
        """An event that nobody waits for."""
        return self._free.pop() if self._free else torch.cuda.Event(enable_timing=True)

    def give(self, event: torch.cuda.Event) -> None:
        """Back into the pool, once its time has been read."""
        self._free.append(event)
