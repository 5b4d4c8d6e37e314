"""The steps and spans that one rank keeps, and their tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from fapool.instrument.ranges import CATEGORY, apart

_LABELS = ("phase", "layer", "micro_batch", "channel", "sequence", "bytes")
_STEP_COLUMNS = ("repeat", "rank", "step", "role", "kind", "start_ns", "end_ns")
_STEP_COLUMNS += ("requests", "tokens", "leased", "kv_tokens", "method")


@dataclass(frozen=True, slots=True)
class OpenStep:
    """A step whose end the device may not have reached; times are read when it has."""

    head: tuple  # of the columns of `STEPS`: those before the times,
    tail: tuple  # and those after them
    host_spans: list
    device_spans: list
    graph_spans: tuple
    end: torch.cuda.Event | int

    @property
    def method(self) -> str:
        """How its spans are timed."""
        return self.tail[-1]


class Kept:
    """Rows as they come; columns when all is over."""

    def __init__(self) -> None:
        self._steps: list[tuple] = []
        self._spans: list[list] = []  # of each of these steps

    def add(self, step: tuple, spans: list[tuple]) -> None:
        """One step, as `STEPS` has it, and its spans: (labels, start, end); the recorder's time."""
        self._steps.append(step)
        self._spans.append(spans)

    def columns(self, unix_offset_ns: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """All that was kept, as the columns of `EVENTS` and `STEPS`; times in Unix ns.

        Spans stand in the order in which they closed, per step; host spans before device spans. One
        that served several exchanges has a row for each.
        """
        unix = unix_offset_ns
        rows_of = [
            [(labels, start, end) for all_of, start, end in spans for labels in apart(all_of)]
            for spans in self._spans
        ]
        steps = _transpose(_STEP_COLUMNS, self._steps)
        for name in ("start_ns", "end_ns"):
            steps[name] = [time + unix for time in steps[name]]
        flat = [span for spans in rows_of for span in spans]
        events = _transpose(_LABELS, [labels for labels, _, _ in flat])
        events["start_ns"] = [start + unix for _, start, _ in flat]
        events["end_ns"] = [end + unix for _, _, end in flat]
        events["category"] = [CATEGORY[phase].value for phase in events["phase"]]
        for name in ("repeat", "rank", "step"):
            rows = zip(steps[name], rows_of, strict=True)
            events[name] = [value for value, spans in rows for _ in spans]
        return events, steps


def _transpose(names: tuple[str, ...], rows: list[tuple]) -> dict[str, list]:
    columns = zip(*rows, strict=True) if rows else ((),) * len(names)
    return {name: list(column) for name, column in zip(names, columns, strict=True)}
