"""Messages over a torch.distributed process group: gloo on CPUs, NCCL on GPUs, the same code.

Ranks that share a GPU cannot use NCCL. Their messages go over gloo through host memory: good for
checking a layout on fewer GPUs than it has ranks, not for its speed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from fapool.errors import ExchangeError
from fapool.phases import Phase
from fapool.runtime.span import Span


class Posted:
    """A message that was posted; holds its buffer until it is waited for."""

    def __init__(
        self,
        work: dist.Work,
        tensor: Tensor,
        labels: dict,
        span: Span | None,
        device: torch.device | None = None,
        arrived: Callable[[int], None] = lambda num_bytes: None,
    ) -> None:
        """`arrived(bytes)` is called when the message is the caller's."""
        self._work: dist.Work | None = work
        self._arrived = arrived
        self._tensor, self._labels, self._span = tensor, labels, span
        self._device = device or tensor.device

    def wait(self) -> Tensor:
        """See `Ticket.wait`."""
        if self._work is None:
            raise ExchangeError(f"waited twice for {self._labels}")
        work, self._work = self._work, None
        if self._span is None:
            work.wait()
        else:
            with self._span(**self._labels):
                work.wait()
                self._tensor = self._tensor.to(self._device)
        self._arrived(self._tensor.nbytes)
        return self._tensor


class ProcessGroupTransport:
    """`isend` and `irecv` on one group.

    Two directions between the same pair that must not wait for each other need two transports on
    two groups: NCCL runs the messages of a pair in the order in which they were posted.
    """

    def __init__(self, group: dist.ProcessGroup, rank: int, span: Span, name: str = "") -> None:
        self._group, self._rank, self._span, self._name = group, rank, span, name
        self._by_host = group is not None and dist.get_backend(group) == "gloo"
        self._counts: defaultdict[str, int] = defaultdict(int)
        self._sent: list[Posted] = []
        self._live_bytes = 0
        self.peak_bytes = 0  # most that messages under way held since `forget_peak`

    def send(self, tensor: Tensor, to: int, phase: Phase, *, layer: int = -1) -> Posted:
        """See `Transport.send`."""
        assert tensor.is_contiguous()
        labels = self._labels(self._rank, to, tensor, phase, layer)
        with self._span(**labels):
            tensor = tensor.cpu() if self._by_host else tensor
            work = dist.isend(tensor, to, group=self._group)
        ticket = Posted(work, tensor, labels, None, arrived=self._taken)
        self._sent.append(ticket)
        return ticket

    def receive(
        self, shape: Sequence[int], like: Tensor, source: int, phase: Phase, *, layer: int = -1
    ) -> Posted:
        """See `Transport.receive`."""
        device = torch.device("cpu") if self._by_host else like.device
        with self._span(Phase.POST, layer=layer):
            tensor = torch.empty(shape, dtype=like.dtype, device=device)
            work = dist.irecv(tensor, source, group=self._group)
        labels = self._labels(source, self._rank, tensor, phase, layer)
        return Posted(work, tensor, labels, self._span, like.device, self._taken)

    def drain(self) -> None:
        """See `Transport.drain`."""
        if self._sent:
            with self._span(Phase.DRAIN):
                for ticket in self._sent:
                    ticket.wait()
        self._sent.clear()

    def forget_peak(self) -> None:
        """Measure `peak_bytes` anew, from what is under way."""
        self.peak_bytes = self._live_bytes

    def _taken(self, num_bytes: int) -> None:
        self._live_bytes -= num_bytes

    def _labels(self, source: int, to: int, tensor: Tensor, phase: Phase, layer: int) -> dict:
        channel = f"{source}>{to}{self._name}"
        sequence = self._counts[channel]
        self._counts[channel] += 1
        self._live_bytes += tensor.nbytes
        self.peak_bytes = max(self.peak_bytes, self._live_bytes)
        return {
            "phase": phase,
            "layer": layer,
            "channel": channel,
            "sequence": sequence,
            "num_bytes": tensor.nbytes,
        }
