"""The one thing that the runtime knows of profiling."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

Span = Callable[..., AbstractContextManager]
"""span(phase, *, layer, micro_batch, channel, sequence, num_bytes): see `Recorder.span`."""
