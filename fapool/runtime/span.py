"""The one thing that the runtime knows of profiling."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from fapool.phases import Phase

Span = Callable[..., AbstractContextManager]
"""span(phase, *, layer, micro_batch, channel, sequence, num_bytes): see `Recorder.span`."""


class NumberedSpan:
    """A span that labels what it opens with the micro-batch under way; -1 between them."""

    def __init__(self, span: Span) -> None:
        self._span = span
        self.micro_batch = -1

    def __call__(self, phase: Phase, **labels: Any) -> AbstractContextManager:
        return self._span(phase, micro_batch=self.micro_batch, **labels)
