"""Walks that take turns, and go on doing so from one step to the next.

pool    ... A3 B3 | A'0 B'0 ...        of each layer piece A, then piece B
base    ... B2 A3 | A'0 B3 B'0 ...     B's last layer ends while A' is attended already
                  ^ step
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fapool.runtime.model import Walk
from fapool.runtime.span import NumberedSpan


@dataclass
class Flight:
    """A walk under way. `slot` tells it from the others, `posted` is what it waits for."""

    slot: int
    work: Any
    walk: Walk
    label: int  # of its spans
    posted: Any = None


class Rolling:
    """Walks in the order in which they began; each goes as far as its next layer at its turn.

    `post(flight, layer, q, k, v)` asks for attention, `wait(flight)` has what came of it.
    """

    def __init__(
        self,
        post: Callable[..., Any],
        wait: Callable[[Flight], Tensor],
        span: NumberedSpan,
    ) -> None:
        self._post, self._wait, self._span = post, wait, span
        self._ring: deque[Flight] = deque()

    def __len__(self) -> int:
        return len(self._ring)

    def holds(self, slot: int) -> bool:
        """Whether a walk is under way in `slot`."""
        return any(flight.slot == slot for flight in self._ring)

    def start(self, flight: Flight) -> None:
        """Begin a walk, as the last in turn."""
        assert not self.holds(flight.slot)
        self._span.micro_batch = flight.label
        flight.posted = self._post(flight, *next(flight.walk))
        self._ring.append(flight)
        self._span.micro_batch = -1

    def turn(self) -> list[tuple[Flight, Tensor]]:
        """Let the first go on and be the last; it and its end, if it has come to that."""
        flight = self._ring.popleft()
        self._span.micro_batch = flight.label
        try:
            flight.posted = self._post(flight, *flight.walk.send(self._attended(flight)))
        except StopIteration as end:
            return [(flight, end.value)]
        finally:
            self._span.micro_batch = -1
        self._ring.append(flight)
        return []

    def _attended(self, flight: Flight) -> Tensor:
        """What came of a flight's layer, which is held no longer when the next one is posted."""
        attended = self._wait(flight)
        flight.posted = None
        return attended

    def clear(self) -> None:
        """Forget all walks."""
        self._ring.clear()
