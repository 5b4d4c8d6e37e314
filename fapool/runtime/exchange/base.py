"""The contract of a transport: post, compute, wait.

    ticket = transport.receive(shape, dtype, source, Phase.WAIT_PARTIALS, layer=3)   # post
    ...                                                                            # compute
    partials = ticket.wait()                                                       # wait

Messages between two ranks arrive in the order in which they were posted, and carry a sequence
number counted alike on both sides, so that their spans can be joined without a word on the wire.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from fapool.phases import Phase


class Ticket(Protocol):
    """A message under way."""

    def wait(self) -> Tensor:
        """Until the buffer may be read (received) or written (sent).

        Raises:
            ExchangeError: waited for already.
        """


class Transport(Protocol):
    """Point-to-point messages between this rank and the others."""

    def send(self, tensor: Tensor, to: int, phase: Phase, *, layer: int = -1) -> Ticket:
        """Post `tensor`; its memory must stay as it is until the ticket was waited for."""

    def receive(
        self, shape: Sequence[int], like: Tensor, source: int, phase: Phase, *, layer: int = -1
    ) -> Ticket:
        """Post a receive of `shape` with the dtype and device of `like`; `phase` times the wait."""

    def drain(self) -> None:
        """Wait for all that was sent."""
