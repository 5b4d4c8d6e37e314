"""A lane of one-sided writes into the partners' memory: copy engines at work, no kernel.

Nothing waits on an SM while others compute: a copy waits in its own stream, and what comes is
waited for by one thread block where the current stream has nothing else to do.

    memory at each rank   [slot 0 [partner 0][partner 1] ..][slot 1 ..] ..   by its own `Places`
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
import torch.distributed as dist
from torch import Tensor

from fapool.phases import Phase
from fapool.runtime.exchange.lane import LaneSpans, Outline, Parcel, Stop
from fapool.runtime.exchange.mapped import Mapped, aligned


@dataclass(frozen=True, kw_only=True)
class Places:
    """How one rank's memory is parted."""

    slots: int
    partners: int
    parcel_bytes: int  # largest parcel

    @property
    def num_bytes(self) -> int:
        """All of it."""
        return self.slots * self.partners * aligned(self.parcel_bytes)

    def of(self, slot: int, index: int) -> slice:
        """Bytes for what the `index`-th partner sends in a slot."""
        size = aligned(self.parcel_bytes)
        start = (slot * self.partners + index) * size
        return slice(start, start + size)


class Yard:
    """Memory that all ranks of `group` can write; `places`: of each. Collective.

    A rank is written to on one lane only (queries at the pool, answers at the base): one yard
    serves both.
    """

    def __init__(
        self, group: dist.ProcessGroup, device: torch.device, places: Sequence[Places]
    ) -> None:
        self._places = places
        self.num_bytes = max(1, *(at.num_bytes for at in places))
        self.mapped = Mapped(group, device, self.num_bytes, max(at.slots for at in places))

    def parcel(self, rank: int, slot: int, index: int) -> Tensor:
        """Bytes at `rank` for what its `index`-th partner sends in a slot."""
        return self.mapped.memory[rank][self._places[rank].of(slot, index)]


class CopyLane:
    """See `Lane`. `indices`: of each partner, which of its partners this rank is."""

    def __init__(self, yard: Yard, indices: dict[int, int], spans: LaneSpans) -> None:
        self._yard, self._indices, self._spans = yard, indices, spans
        self._order = {rank: i for i, rank in enumerate(indices)}
        self._mapped = yard.mapped
        self._sent: dict[int, list[Tensor]] = {}  # read until the slot is answered
        self.peak_bytes = 0  # none but the yard's

    def send(self, stop: Stop, parcels: Sequence[Parcel]) -> None:
        """See `Lane.send`."""
        sizes = {rank: sum(x.nbytes for x in tensors) for rank, tensors in parcels}
        with self._spans.sends(stop, sizes):
            self._mapped.stream.wait_event(torch.cuda.current_stream().record_event())
            with torch.cuda.stream(self._mapped.stream):
                for rank, tensors in parcels:
                    self._write(stop.slot, rank, tensors)
        self._sent[stop.slot] = [x for _, tensors in parcels for x in tensors]

    def expect(self, stop: Stop, outlines: Sequence[Outline]) -> CopyArrival:
        """See `Lane.expect`."""
        found, sizes = [], {}
        for rank, shapes in outlines:
            parcel = self._yard.parcel(self._mapped.rank, stop.slot, self._order[rank])
            found.append(unpacked(parcel, shapes))
            sizes[rank] = sum(x.nbytes for x in found[-1])
        return CopyArrival(self._mapped, stop.slot, found, sizes, self._spans.waits(stop, sizes))

    def let_go(self, slot: int) -> None:
        """See `Lane.let_go`."""
        self._sent.pop(slot, None)

    def drain(self) -> None:
        """See `Lane.drain`."""
        if self._sent:
            with self._spans.within(Phase.DRAIN):
                torch.cuda.current_stream().wait_stream(self._mapped.stream)
            self._sent.clear()

    def forget_peak(self) -> None:
        """See `Lane.forget_peak`."""

    def _write(self, slot: int, rank: int, tensors: Sequence[Tensor]) -> None:
        parcel = self._yard.parcel(rank, slot, self._indices[rank])
        there = unpacked(parcel, [(tuple(x.shape), x.dtype) for x in tensors])
        for target, x in zip(there, tensors, strict=True):
            assert x.is_contiguous()
            if x.numel():
                target.copy_(x, non_blocking=True)
        self._mapped.signal(rank, slot)


class CopyArrival:
    """See `Arrival`."""

    def __init__(
        self, mapped: Mapped, slot: int, found: list[list[Tensor]], sizes: dict[int, int], span
    ) -> None:
        self._mapped, self._slot, self._found, self._sizes = mapped, slot, found, sizes
        self._span = span

    def wait(self) -> list[list[Tensor]]:
        """See `Arrival.wait`."""
        with self._span:
            for rank in self._sizes:
                self._mapped.wait(rank, self._slot)
        return self._found


def unpacked(parcel: Tensor, shapes: Sequence[tuple[tuple[int, ...], torch.dtype]]) -> list[Tensor]:
    """Views of a parcel's bytes: each tensor begins on a border of ALIGNMENT."""
    found, start = [], 0
    for shape, dtype in shapes:
        size = prod(shape) * dtype.itemsize
        assert start + size <= len(parcel), "a parcel is larger than its place"
        found.append(parcel[start : start + size].view(dtype).view(shape))
        start += aligned(size)
    return found
