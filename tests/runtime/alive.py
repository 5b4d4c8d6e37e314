"""Bytes of the tensors that a message lane has in hand, by when they are let go."""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import pytest
from torch import Tensor

from fapool.runtime.exchange.lane import Outline, Parcel, Stop
from fapool.runtime.exchange.message_lane import MessageLane


class Alive:
    """`peak_bytes`: the most of watched tensors that were there at once."""

    def __init__(self) -> None:
        self._now_bytes = self.peak_bytes = 0

    def watch(self, tensors: Iterable[Tensor]) -> None:
        """Count these from now on, until nobody has them any more."""
        for x in tensors:
            self._now_bytes += x.nbytes
            weakref.finalize(x, self._let_go, x.nbytes)
        self.peak_bytes = max(self.peak_bytes, self._now_bytes)

    def _let_go(self, num_bytes: int) -> None:
        self._now_bytes -= num_bytes


@contextmanager
def watched() -> Iterator[dict[MessageLane, Alive]]:
    """Meanwhile what lanes of this process are given to send, and make room for, is watched."""
    found: dict[MessageLane, Alive] = defaultdict(Alive)
    send, swap, room = MessageLane.send, MessageLane.swap, MessageLane._room

    def sending(lane: MessageLane, stop: Stop, parcels: Sequence[Parcel]) -> None:
        found[lane].watch(x for _, tensors in parcels for x in tensors)
        send(lane, stop, parcels)

    def swapping(lane: MessageLane, stop: Stop, parcels: Sequence[Parcel], outlines):
        found[lane].watch(x for _, tensors in parcels for x in tensors)
        return swap(lane, stop, parcels, outlines)

    def making(lane: MessageLane, outlines: Sequence[Outline]):
        buffers, filled = room(lane, outlines)
        found[lane].watch(x for tensors in buffers for x in tensors)
        return buffers, filled

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MessageLane, "send", sending)
        patch.setattr(MessageLane, "swap", swapping)
        patch.setattr(MessageLane, "_room", making)
        yield found
