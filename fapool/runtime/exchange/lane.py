"""The contract of a lane: one direction of a prefill's exchange, whose messages differ in size.

A prefill step is done in pieces, several of them in flight. Queries travel on one lane, answers
on another, so that neither waits for the other:

    base rank                                    pool rank
    send(stop, to the columns)  --- q, k, v -->  expect(stop, from the bases).wait()
    expect(stop, from the columns)
      (another piece's products)                   (append, attend)
      .wait()                   <-- out, lse --  send(stop, to the bases)

Every parcel is answered, if only by an empty one. So whoever sends in a slot has heard that what
was sent there before is taken; a slot's buffers are never written while they are read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from fapool.phases import Phase
from fapool.runtime.span import Span

Parcel = tuple[int, Sequence[Tensor]]
"""A rank, and what it gets: contiguous tensors, some or all of them empty."""

Outline = tuple[int, Sequence[tuple[tuple[int, ...], torch.dtype]]]
"""A rank, and the shapes and dtypes of what comes from it."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Where an exchange belongs; `number` is alike at both ends and no other's of the run."""

    slot: int  # of the pieces in flight
    layer: int
    number: int


class Arrival(Protocol):
    """What was expected."""

    def wait(self) -> list[list[Tensor]]:
        """The tensors of each outline, good until the slot's next parcels are sent; once."""


class Lane(Protocol):
    """Its calls run on the current stream and never make the host wait for a GPU."""

    peak_bytes: int  # most that messages in flight held here, beside what is held for good

    def send(self, stop: Stop, parcels: Sequence[Parcel]) -> None:
        """Send what the current stream has made so far."""

    def expect(self, stop: Stop, outlines: Sequence[Outline]) -> Arrival:
        """Announce what comes; in the order in which it is sent."""

    def let_go(self, slot: int) -> None:
        """Drop what was sent in a slot, once it is taken, and what came in it and was read.

        Before the slot's next parcels are made: else two layers of them are held at once.
        """

    def drain(self) -> None:
        """Wait until nothing that was sent from here is under way."""

    def forget_peak(self) -> None:
        """Measure `peak_bytes` anew, from what is under way."""


class LaneSpans:
    """What a lane records: each span serves one message with every partner, if it has bytes."""

    def __init__(self, span: Span, rank: int, name: str, phases: tuple[Phase, Phase]) -> None:
        self._span, self._rank, self._name = span, rank, name
        self._sends, self._waits = phases

    def sends(self, stop: Stop, sizes: dict[int, int]):
        """A span in which parcels of `sizes` bytes leave for ranks."""
        return self._exchange(self._sends, stop, {f"{self._rank}>{r}": n for r, n in sizes.items()})

    def waits(self, stop: Stop, sizes: dict[int, int]):
        """A span in which parcels of `sizes` bytes come from ranks."""
        return self._exchange(self._waits, stop, {f"{r}>{self._rank}": n for r, n in sizes.items()})

    def within(self, phase: Phase, layer: int = -1):
        """A span of this rank alone."""
        return self._span(phase, layer=layer)

    def _exchange(self, phase: Phase, stop: Stop, sizes: dict[str, int]):
        some = {channel: n for channel, n in sizes.items() if n}
        if not some:
            return self._span(phase, layer=stop.layer)
        return self._span(
            phase,
            layer=stop.layer,
            channel=tuple(channel + self._name for channel in some),
            sequence=stop.number,
            num_bytes=tuple(some.values()),
        )
