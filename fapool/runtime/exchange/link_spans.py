"""What a link records of its messages, numbered alike at both ends without a word on the wire.

Partners are served by one call: one span for all of them, kept for each (see `Recorder.span`).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

from fapool.phases import Phase, Role
from fapool.runtime.exchange.link import Route
from fapool.runtime.span import Span


class LinkSpans:
    """Spans of one link, on the channels `a>b<name>`: a message a layer there, and one back.

    Sizes are in elements of `itemsize` bytes, one for each partner.
    """

    def __init__(self, span: Span, at: Route, name: str, itemsize: int) -> None:
        self._span, self._itemsize = span, itemsize
        there, back = (at.ends, at.answers) if at.role is Role.BASE else (at.answers, at.ends)
        self._there = tuple(f"{at.rank}>{end.rank}{name}" for end in there)
        self._back = tuple(f"{end.rank}>{at.rank}{name}" for end in back)
        self._to_lead = tuple(f"{at.rank}>{rank}{name}" for rank in at.team[:1])
        self._of_mates = tuple(f"{rank}>{at.rank}{name}" for rank in at.team[1:])
        self._layers = 0  # done so far, in all steps

    def within(self, phase: Phase, layer: int) -> AbstractContextManager:
        """A span of this rank alone."""
        return self._span(phase, layer=layer)

    def sends(self, phase: Phase, layer: int, sizes: Sequence[int]) -> AbstractContextManager:
        """A span that posts a message to every partner that is to get one."""
        return self._exchange(phase, layer, self._there, sizes)

    def waits(self, phase: Phase, layer: int, sizes: Sequence[int]) -> AbstractContextManager:
        """A span at whose end a message of every partner that sends one is there."""
        return self._exchange(phase, layer, self._back, sizes)

    def gives(self, layer: int, size: int) -> AbstractContextManager:
        """A span that posts a partial to the first of the team."""
        return self._exchange(Phase.SEND_PARTIALS, layer, self._to_lead, [size])

    def gathers(self, layer: int, size: int) -> AbstractContextManager:
        """A span at whose end the partials of all others of the team are there."""
        sizes = [size] * len(self._of_mates)
        return self._exchange(Phase.WAIT_PARTIALS, layer, self._of_mates, sizes)

    def next_layer(self) -> None:
        """Number what follows anew: a layer's messages went and came."""
        self._layers += 1

    def _exchange(
        self, phase: Phase, layer: int, channel: tuple[str, ...], sizes: Sequence[int]
    ) -> AbstractContextManager:
        num_bytes = tuple(size * self._itemsize for size in sizes)
        return self._span(
            phase, layer=layer, channel=channel, sequence=self._layers, num_bytes=num_bytes
        )
