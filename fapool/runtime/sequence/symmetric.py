"""Rows carried by one-sided writes into the peers' memory: copy engines at work, no kernel.

Why two buffers and no barrier are enough. Everybody signals everybody once in an exchange, and an
exchange ends only after all those signals were waited for. A rank that writes in exchange t has
therefore seen each peer's signal of t-1, which that peer sent after its stream was through with
t-2: whatever read the buffer of t-2, or took its signals, is over. t uses that buffer again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist
import torch.distributed._symmetric_memory as symm_mem
from torch import Tensor

from fapool.runtime.exchange.arena import TIMEOUT_MS, meet
from fapool.runtime.sequence.mail import Mail


class Symmetric:
    """A `Carrier` inside one node, for mails of up to `max_rows`; no multicast.

    `like` are tensors with the dtypes, device and trailing shapes of what is carried. Making one is
    collective over `group`. Holds two buffers of `max_rows` rows.
    """

    def __init__(self, group: dist.ProcessGroup, *, max_rows: int, like: Sequence[Tensor]) -> None:
        self._num_ranks, self._rank = dist.get_world_size(group), dist.get_rank(group)
        self._max_rows, self._handles = max_rows, []
        self._buffers: list[list[Tensor]] = []  # [tensor][rank] -> [turn, row, ...]
        for x in like:
            shape = (2, max_rows, *x.shape[1:])
            buffer = symm_mem.empty(shape, dtype=x.dtype, device=x.device)
            handle = meet(buffer, group)
            self._handles.append(handle)
            ranks = range(self._num_ranks)
            self._buffers.append([handle.get_buffer(rank, shape, x.dtype) for rank in ranks])
        # [turn, sender], where `wait_signal(sender, turn)` looks
        pad = (2 * self._num_ranks,)
        self._pads = [handle.get_signal_pad(rank, pad, torch.uint32) for rank in ranks]
        self._stream = torch.cuda.Stream(priority=-1)
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
        own = [buffers[self._rank] for buffers in self._buffers]
        self.received = tuple(buffer[self._turn, : mail.num_rows] for buffer in own)

    def post(
        self, ready: torch.cuda.Event, tensors: Sequence[Tensor], targets: Sequence[int]
    ) -> None:
        """See `Carrier.post`."""
        self._step += len(targets)
        self._stream.wait_event(ready)
        with torch.cuda.stream(self._stream):
            for target in targets:
                rows, start = self._mail.sent[target], self._mail.there[target]
                if num_rows := rows.stop - rows.start:
                    for x, buffers in zip(tensors, self._buffers, strict=True):
                        there = buffers[target][self._turn, start : start + num_rows]
                        there.copy_(x[rows], non_blocking=True)
                self._signal(target)

    def wait(self, sources: Iterable[int]) -> None:
        """See `Carrier.wait`."""
        for source in sources:
            self._expected.remove(source)
            self._handles[-1].wait_signal(source, channel=self._turn, timeout_ms=TIMEOUT_MS)

    def finish(self) -> None:
        """See `Carrier.finish`."""
        assert self._step == len(self._mail.targets)
        self.wait(sorted(self._expected))
        torch.cuda.current_stream().wait_stream(self._stream)

    def _signal(self, target: int) -> None:
        """Raise the flag by the stream itself: a kernel would wait for a free SM.

        The write comes after the copies before it and is preceded by a fence of the system.
        """
        at = self._turn * self._num_ranks + self._rank
        torch._C._distributed_c10d._SymmetricMemory.stream_write_value32(self._pads[target], at, 1)
