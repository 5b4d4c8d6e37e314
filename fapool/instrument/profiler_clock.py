"""The clock of torch.profiler's trace against ours: ranges that were opened between two readings.

The profiler turns its counter into Unix time by readings of its own, and does so once a window.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from fapool.instrument.alignment import Line, bound_near, fit


class ProfilerClock:
    """Collects when ranges opened and closed, and finds them among what the profiler saw."""

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._marks: dict[tuple[str, bool], tuple[int, int]] = {}

    def opens(self, name: str, act: Callable[[], Any]) -> None:
        """`act` opens the one range of this name."""
        self._mark(name, True, act)

    def closes(self, name: str, act: Callable[[], Any]) -> None:
        """`act` closes it."""
        self._mark(name, False, act)

    def line(self, events: Iterable[Any]) -> Line | None:
        """What to add to the trace's Unix ns to get our clock; None if it holds no such range.

        `events`: the profiler's, with `name`, `start_ns` and `duration_ns` to call.
        """
        names, bounds = {name for name, _ in self._marks}, []
        for event in events:
            name = event.name()
            if name not in names:
                continue
            start = event.start_ns()
            for opening, time_ns in ((True, start), (False, start + event.duration_ns())):
                if (name, opening) in self._marks:
                    before, after = self._marks[name, opening]
                    bounds.append(bound_near(before, time_ns, after))
        return fit(bounds) if bounds else None

    def _mark(self, name: str, opening: bool, act: Callable[[], Any]) -> None:
        before = self._clock()
        act()
        self._marks[name, opening] = before, self._clock()
