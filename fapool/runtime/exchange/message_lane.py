"""A lane of messages of a process group: NCCL, or gloo on CPUs and where GPUs are shared."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from fapool.phases import Phase
from fapool.runtime.exchange.lane import LaneSpans, Outline, Parcel, Stop

WAYS = "sent", "coming", "swapped"


class MessageLane:
    """See `Lane`. One batch of messages a stop, on a group that carries nothing the other way."""

    def __init__(self, group: dist.ProcessGroup, device: torch.device, spans: LaneSpans) -> None:
        self._group, self._device, self._spans = group, device, spans
        self._by_host = dist.get_backend(group) == "gloo" and device.type == "cuda"
        self._sent: dict[int, tuple[list[dist.Work], list[Tensor]]] = {}
        self._live: dict[tuple[str, int], int] = {}
        self.peak_bytes = 0

    def send(self, stop: Stop, parcels: Sequence[Parcel]) -> None:
        """See `Lane.send`."""
        self.let_go(stop.slot)
        sizes = {rank: sum(x.nbytes for x in tensors) for rank, tensors in parcels}
        with self._spans.sends(stop, sizes):
            kept = [(self._outside(x), rank) for rank, xs in parcels for x in xs if x.numel()]
            self._sent[stop.slot] = self._post(dist.isend, kept), [x for x, _ in kept]
        self._count(("sent", stop.slot), sum(sizes.values()))

    def expect(self, stop: Stop, outlines: Sequence[Outline]) -> MessageArrival:
        """See `Lane.expect`."""
        with self._spans.within(Phase.POST, stop.layer):
            buffers, filled = self._room(outlines)
            works = self._post(dist.irecv, filled)
        sizes = _sizes(outlines, buffers)
        self._count(("coming", stop.slot), sum(sizes.values()))
        return MessageArrival(works, buffers, self._device, self._spans.waits(stop, sizes))

    def swap(
        self, stop: Stop, parcels: Sequence[Parcel], outlines: Sequence[Outline]
    ) -> MessageArrival:
        """Send and expect as one batch, among ranks that do so alike: none waits for another's."""
        sizes = {rank: sum(x.nbytes for x in tensors) for rank, tensors in parcels}
        with self._spans.sends(stop, sizes):
            kept = [(self._outside(x), rank) for rank, xs in parcels for x in xs if x.numel()]
            buffers, filled = self._room(outlines)
            calls = self._calls(dist.isend, kept) + self._calls(dist.irecv, filled)
            with self._spans.within(Phase.POST, stop.layer):  # inside: one kernel does both
                works = dist.batch_isend_irecv(calls) if calls else []
        coming = _sizes(outlines, buffers)
        self._count(("swapped", stop.slot), sum(sizes.values()) + sum(coming.values()))
        waits = self._spans.waits(stop, coming)
        return MessageArrival(works, buffers, self._device, waits, [x for x, _ in kept])

    def let_go(self, slot: int) -> None:
        """See `Lane.let_go`."""
        works, _ = self._sent.pop(slot, ((), ()))
        for work in works:
            work.wait()
        for way in WAYS:
            self._live.pop((way, slot), None)

    def drain(self) -> None:
        """See `Lane.drain`."""
        if self._sent:
            with self._spans.within(Phase.DRAIN):
                for slot in list(self._sent):
                    self.let_go(slot)
        self._live.clear()

    def forget_peak(self) -> None:
        """See `Lane.forget_peak`."""
        self.peak_bytes = sum(self._live.values())

    def _outside(self, x: Tensor) -> Tensor:
        assert x.is_contiguous()
        return x.cpu() if self._by_host else x

    def _room(
        self, outlines: Sequence[Outline]
    ) -> tuple[list[list[Tensor]], list[tuple[Tensor, int]]]:
        """Tensors for what comes, and of these the ones with something in them, by sender."""
        where = "cpu" if self._by_host else self._device
        buffers = [
            [torch.empty(shape, dtype=dtype, device=where) for shape, dtype in shapes]
            for _, shapes in outlines
        ]
        pairs = zip(outlines, buffers, strict=True)
        return buffers, [(x, rank) for (rank, _), xs in pairs for x in xs if x.numel()]

    def _post(self, how, messages: list[tuple[Tensor, int]]) -> list[dist.Work]:
        calls = self._calls(how, messages)
        return dist.batch_isend_irecv(calls) if calls else []

    def _calls(self, how, messages: list[tuple[Tensor, int]]) -> list[dist.P2POp]:
        return [dist.P2POp(how, x, rank, self._group) for x, rank in messages]

    def _count(self, what: tuple[str, int], num_bytes: int) -> None:
        self._live[what] = num_bytes
        self.peak_bytes = max(self.peak_bytes, sum(self._live.values()))


class MessageArrival:
    """See `Arrival`. `kept`: what was sent along with it, read until it is there."""

    def __init__(
        self,
        works: list[dist.Work],
        buffers: list[list[Tensor]],
        device: torch.device,
        span,
        kept: Sequence[Tensor] = (),
    ) -> None:
        self._works, self._buffers, self._device, self._span = works, buffers, device, span
        self._kept = kept

    def wait(self) -> list[list[Tensor]]:
        """See `Arrival.wait`."""
        with self._span:
            for work in self._works:
                work.wait()
            return [[x.to(self._device) for x in tensors] for tensors in self._buffers]


def _sizes(outlines: Sequence[Outline], buffers: Sequence[Sequence[Tensor]]) -> dict[int, int]:
    """Bytes that come, by sender."""
    pairs = zip(outlines, buffers, strict=True)
    return {rank: sum(x.nbytes for x in tensors) for (rank, _), tensors in pairs}
