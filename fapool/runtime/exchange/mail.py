"""Messages of a fixed-shape exchange: buffers made once, and how a partial lies in one.

    shapes:  B rows, H heads, D head dim

[out B x H x D][lse B x H, fp32 seen as dtype], flat, in the model's dtype.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
import torch.distributed as dist
from torch import Tensor

from fapool.runtime.partial import Partial, lse_dtype


class Mail:
    """One direction of a link: a buffer per message, posted together and waited for together.

    `copies` > 1: the same message, one buffer, to as many ranks.
    """

    def __init__(
        self, group: dist.ProcessGroup, sizes: Sequence[int], like: Tensor, *, copies: int = 1
    ) -> None:
        self._group, self._by_host = group, dist.get_backend(group) == "gloo"
        self.buffers = [like.new_empty(size) for size in sizes] * copies
        copied = self._by_host and like.is_cuda
        host = [like.new_empty(size, device="cpu") for size in sizes] * copies
        self._host = host if copied else None
        self._works: list[dist.Work] = []
        self._arriving: list[int] = []

    @property
    def num_bytes(self) -> int:
        """Of the buffers, on the device; one that goes to several ranks counts once."""
        return sum(buffer.nbytes for buffer in {id(b): b for b in self.buffers}.values())

    def send(self, ranks: Sequence[int], sizes: Sequence[int]) -> None:
        """Post the first `sizes` elements of each buffer; `wait` before they change."""
        if self._host:
            for host, buffer, size in zip(self._host, self.buffers, sizes, strict=True):
                host[:size].copy_(buffer[:size])
        self._post(dist.isend, ranks, sizes)

    def receive(self, ranks: Sequence[int], sizes: Sequence[int]) -> None:
        """Post receives; `wait` before the buffers are read."""
        self._arriving = list(sizes)
        self._post(dist.irecv, ranks, sizes)

    def wait(self) -> None:
        """Until the buffers may be read or written again."""
        for work in self._works:
            work.wait()
        self._works = []
        if self._host:
            for host, buffer, size in zip(self._host, self.buffers, self._arriving, strict=False):
                buffer[:size].copy_(host[:size])
        self._arriving = []

    def _post(self, how, ranks: Sequence[int], sizes: Sequence[int]) -> None:
        messages = zip(self._host or self.buffers, ranks, sizes, strict=True)
        calls = [dist.P2POp(how, m[:size], rank, self._group) for m, rank, size in messages if size]
        self._works = dist.batch_isend_irecv(calls) if calls else []


def part_width(heads: int, dim: int, dtype: torch.dtype) -> int:
    """Elements that a row of a partial takes in a message."""
    return heads * (dim + lse_dtype(dtype).itemsize // dtype.itemsize)


def part_in(message: Tensor, shape: tuple[int, int, int]) -> Partial:
    """The partial of `shape` [B, H, D] in a message, as views."""
    rows, heads, _ = shape
    body, size = prod(shape), rows * part_width(heads, shape[2], message.dtype)
    lse = message[body:size].view(lse_dtype(message.dtype))
    return Partial(message[:body].view(shape), lse.view(rows, heads))
