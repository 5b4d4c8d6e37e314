"""When, by the host's clock, the device did what its events say; one line for each repeat.

Events tell times of the device's own clock, one against the other. Where both clocks stand is
asked in rounds on an idle device: the host reads its clock, records an event, waits for it, reads
again. The event lies between the readings, some microseconds apart; what all rounds allow is
narrower: the quickest launch and the quickest wait need not be of one round.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, Protocol

from fapool.instrument.alignment import Bound, Line, bound_near, fit
from fapool.instrument.clock import about_line

ROUNDS = 96


class Event(Protocol):
    """A point on the device's timeline; `torch.cuda.Event` is one."""

    def elapsed_time(self, later: Any) -> float:
        """Milliseconds until `later`."""

    def query(self) -> bool:
        """Whether the device got here."""


class Events(Protocol):
    """Where events come from, and go once their time is known: an `EventPool`."""

    def record(self) -> Event:
        """An event, recorded now."""

    def record_after(self, clock: Callable[[], int]) -> tuple[int, Event]:
        """What a clock says, and an event that is recorded right then."""

    def give(self, event: Event) -> None:
        """Take it back."""


class DeviceClock:
    """The device's timeline in nanoseconds since the first event of each repeat.

    Until a repeat is over its times are as the rounds before it say, with no drift: a time is then
    `start_ns` plus what the device counted, and `settle` turns it into what all rounds say.
    """

    def __init__(self, events: Events, clock: Callable[[], int] = time.perf_counter_ns) -> None:
        self._events, self._clock = events, clock
        self._border: Event | None = None  # the latest event whose time is known,
        self._at_ns = 0  # and that time, by the device
        self._repeat = -1
        self._bounds: list[Bound] = []
        self._ticks: list[int] = []
        self.start_ns = 0  # host time of the device's 0, as the rounds before the repeat say
        self._lines: dict[int, tuple[int, Line]] = {}  # repeat -> its `start_ns`, and its line

    def begin(self, repeat: int) -> int:
        """Ask before a repeat, on an idle device; host time of the last event of these rounds."""
        self._move(self._events.record(), 0)
        self._repeat, self._bounds = repeat, []
        self._ask()
        line = fit(self._bounds)
        self.start_ns = line.offset_ns(line.end_ns)
        return self.start_ns + self._at_ns

    def end(self) -> None:
        """Ask after a repeat, on an idle device, and keep its line."""
        self._ask()
        self._lines[self._repeat] = self.start_ns, fit(self._bounds)

    def at(self, event: Event) -> int:
        """Host time of an event that the device got to, as long as the repeat goes on."""
        assert self._border is not None, "begin() comes before at()"
        return self.start_ns + self._at_ns + round(self._border.elapsed_time(event) * 1e6)

    def move(self, event: Event) -> int:
        """`at` of it; later events are timed from it, since a long time is a coarse one."""
        time_ns = self.at(event)
        self._move(event, time_ns - self.start_ns)
        return time_ns

    def settle(self, repeat: int) -> Callable[[int], int]:
        """Makes of a time that `at` gave what the rounds after the repeat say, too."""
        if repeat not in self._lines:
            return lambda time_ns: time_ns
        start_ns, line = self._lines[repeat]
        return lambda time_ns: time_ns - start_ns + line.offset_ns(time_ns - start_ns)

    @property
    def resolution_ns(self) -> int:
        """What all times between rounds are multiples of."""
        return max(1, math.gcd(*self._ticks))

    def about(self) -> dict[str, Any]:
        """Of the repeat that is least certain: drift, uncertainty before and after it, notes."""
        lines = [line for repeat, (_, line) in self._lines.items() if repeat >= 0]
        lines = lines or [line for _, line in self._lines.values()]
        if not lines:
            return {}
        worst = max(lines, key=lambda line: line.uncertainty_ns)
        found = about_line(worst, "the device's clock")
        del found["offset_ns"]  # to an event that only this repeat knew
        found["uncertainty_ns"] += self.resolution_ns
        return found | {"resolution_ns": self.resolution_ns, "by": "events"}

    def _ask(self) -> None:
        latest = self._at_ns
        for number in range(ROUNDS + 1):
            before, event = self._events.record_after(self._clock)
            while not event.query():  # sooner than a wait in the driver notices
                pass
            after = self._clock()
            self.move(event)
            if number:  # the first one waits for what was under way, and is slow
                self._bounds.append(bound_near(before, self._at_ns, after))
                self._ticks.append(self._at_ns - latest)
            latest = self._at_ns
        self._ticks = self._ticks[-ROUNDS:]

    def _move(self, event: Event, at_ns: int) -> None:
        if self._border is not None:
            self._events.give(self._border)
        self._border, self._at_ns = event, at_ns
