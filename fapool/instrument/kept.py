"""The steps and spans that one rank keeps, and their tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fapool.instrument.ranges import CATEGORY, apart
from fapool.phases import TRACED

_LABELS = ("phase", "layer", "micro_batch", "channel", "sequence", "bytes")
_STEP_COLUMNS = ("repeat", "rank", "step", "role", "kind", "start_ns", "end_ns")
_STEP_COLUMNS += ("requests", "tokens", "leased", "kv_tokens", "method")

Spans = Sequence[tuple]
Settle = Callable[[int], int]
"""Makes Unix nanoseconds of a recorder's time; of two times the later one stays so, or equal."""


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
        self._spans: list[tuple[Spans, Spans]] = []  # of each of these steps, on host and device

    def add(self, step: tuple, on_host: Spans, on_device: Spans = ()) -> None:
        """One step, as `STEPS` has it, and its spans: (labels, start, end); the recorder's time.

        Where there are spans on a device, the step's borders are its events, too.
        """
        self._steps.append(step)
        self._spans.append((on_host, on_device))

    def columns(
        self,
        unix_offset_ns: int,
        host: Settle = lambda time_ns: time_ns,
        device: Callable[[int], Settle] = lambda repeat: lambda time_ns: time_ns,
        *,
        traced: bool = False,
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """What was kept, as the columns of `EVENTS` and `STEPS`, of the repeat `TRACED` or of all
        others; times in Unix ns.

        Spans stand in the order in which they closed, per step; host spans before device spans. One
        that served several exchanges has a row for each. `host` settles all times by the host's
        clock; before it, `device` (a repeat) those that events told: device spans and borders.
        """
        chosen = [n for n, step in enumerate(self._steps) if (step[0] == TRACED) == traced]
        steps = _transpose(_STEP_COLUMNS, [self._steps[n] for n in chosen])
        unix, repeats = unix_offset_ns, set(steps["repeat"])
        by_repeat = {repeat: _chain(unix, device(repeat), host) for repeat in repeats}
        spans = [self._spans[n] for n in chosen]
        settlers = [by_repeat[repeat] for repeat in steps["repeat"]]
        by_host = _chain(unix, host)
        rows_of = [
            [*_settled(on_host, by_host), *_settled(on_device, settle)]
            for (on_host, on_device), settle in zip(spans, settlers, strict=True)
        ]
        for name in ("start_ns", "end_ns"):
            times = zip(steps[name], settlers, strict=True)
            steps[name] = [settle(time) for time, settle in times]
        flat = [span for spans in rows_of for span in spans]
        events = _transpose(_LABELS, [labels for labels, _, _ in flat])
        events["start_ns"] = [start for _, start, _ in flat]
        events["end_ns"] = [end for _, _, end in flat]
        events["category"] = [CATEGORY[phase].value for phase in events["phase"]]
        for name in ("repeat", "rank", "step"):
            rows = zip(steps[name], rows_of, strict=True)
            events[name] = [value for value, spans in rows for _ in spans]
        return events, steps


def _chain(unix_offset_ns: int, *settlers: Settle) -> Settle:
    def settle(time_ns: int) -> int:
        time_ns += unix_offset_ns
        for one in settlers:
            time_ns = one(time_ns)
        return time_ns

    return settle


def _settled(spans: Spans, settle: Settle) -> list[tuple]:
    return [
        (labels, settle(start), settle(end))
        for all_of, start, end in spans
        for labels in apart(all_of)
    ]


def _transpose(names: tuple[str, ...], rows: list[tuple]) -> dict[str, list]:
    columns = zip(*rows, strict=True) if rows else ((),) * len(names)
    return {name: list(column) for name, column in zip(names, columns, strict=True)}
