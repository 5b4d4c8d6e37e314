"""Rows carried by one-sided writes into the peers' memory: copy engines at work, no kernel.

Why two buffers and no barrier are enough. Everybody signals everybody once in an exchange, and an
exchange ends only after all those signals were waited for. A rank that writes in exchange t has
therefore seen each peer's signal of t-1, which that peer sent after its stream was through with
t-2: whatever read the buffer of t-2, or took its signals, is over. t uses that buffer again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod

import torch
import torch.distributed as dist
from torch import Tensor

from fapool.runtime.exchange.mapped import Mapped, aligned
from fapool.runtime.sequence.mail import Mail


class Symmetric:
    """A `Carrier` inside one node, for mails of up to `max_rows`; no multicast.

    `like` are tensors with the dtypes, device and trailing shapes of what is carried. Making one is
    collective over `group`. Holds two buffers of `max_rows` rows.
    """

    def __init__(self, group: dist.ProcessGroup, *, max_rows: int, like: Sequence[Tensor]) -> None:
        self._max_rows = max_rows
        shapes = [(2, max_rows, *x.shape[1:]) for x in like]
        sizes = [prod(shape) * x.itemsize for shape, x in zip(shapes, like, strict=True)]
        room = max(1, sum(map(aligned, sizes)))
        self._mapped = Mapped(group, like[0].device, room, channels=2)
        self._buffers: list[list[Tensor]] = []  # [tensor][rank] -> [turn, row, ...]
        start = 0
        for x, shape, size in zip(like, shapes, sizes, strict=True):
            parts = [memory[start : start + size] for memory in self._mapped.memory]
            self._buffers.append([part.view(x.dtype).view(shape) for part in parts])
            start += aligned(size)
        self._mail: Mail | None = None
        self._turn, self._step, self._expected = 0, 0, set[int]()
        self.received: tuple[Tensor, ...] = ()

    def mark(self) -> torch.cuda.Event:
        """See `Carrier.mark`."""
        return torch.cuda.current_stream().record_event()

    def begin(self, mail: Mail, like: Sequence[Tensor]) -> None:
        """See `Carrier.begin`."""
        assert not self._expected and mail.num_rows <= self._max_rows
        self._mail, self._turn, self._step = mail, 1 - self._turn, 0
        self._expected = set(mail.sources)
        own = [buffers[self._mapped.rank] for buffers in self._buffers]
        self.received = tuple(buffer[self._turn, : mail.num_rows] for buffer in own)

    def post(
        self, ready: torch.cuda.Event, tensors: Sequence[Tensor], targets: Sequence[int]
    ) -> None:
        """See `Carrier.post`."""
        self._step += len(targets)
        self._mapped.stream.wait_event(ready)
        with torch.cuda.stream(self._mapped.stream):
            for target in targets:
                rows, start = self._mail.sent[target], self._mail.there[target]
                if num_rows := rows.stop - rows.start:
                    for x, buffers in zip(tensors, self._buffers, strict=True):
                        there = buffers[target][self._turn, start : start + num_rows]
                        there.copy_(x[rows], non_blocking=True)
                self._mapped.signal(target, self._turn)

    def wait(self, sources: Iterable[int]) -> None:
        """See `Carrier.wait`."""
        for source in sources:
            self._expected.remove(source)
            self._mapped.wait(source, self._turn)

    def finish(self) -> None:
        """See `Carrier.finish`."""
        assert self._step == len(self._mail.targets)
        self.wait(sorted(self._expected))
        torch.cuda.current_stream().wait_stream(self._mapped.stream)
