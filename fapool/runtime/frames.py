"""The inputs of a decode step in a fixed shape, at fixed addresses, whoever is in the batch.

    shapes:  B rows of the bucket, W widest row of the block table

Every rank of a plan works on all rows. Where a request's keys do not lie, its row is empty; rows
beyond the batch are empty everywhere. What a step needs is written as one run of whole numbers and
copied to the device at once, from pinned memory that is not written again before it was read.

    [ids B][positions B][slots B][owners B][seqlens B][table B x W][work items of the kernel]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from fapool.deals import Deal
from fapool.runtime.kvcache import KVCache
from fapool.runtime.rows import FixedRows
from fapool.schedule import Segment

NOT_HERE = -1
"""Slot of a new key that lies on another rank."""

PINNED = 4
"""Host copies in turn: more than the steps that the host may be ahead of the device."""


class Splitter(Protocol):
    """Cuts the rows of a frame into work items for a decode kernel."""

    size: int  # int32 numbers that say how

    def cut(self, lengths: np.ndarray, numbers: np.ndarray) -> None:
        """Write the items of rows with these lengths [B] to `numbers` [size]."""

    def items(self, numbers: Tensor) -> Any:
        """The items in `numbers`, as the kernel takes them."""


def buckets(batch: int) -> tuple[int, ...]:
    """Batch sizes that a frame is made for: powers of two below `batch`, and itself."""
    return (*(2**i for i in range((batch - 1).bit_length())), batch)


class Frame:
    """One bucket's inputs on one rank."""

    def __init__(
        self,
        *,
        rows: int,
        width: int,
        cache: KVCache,
        keeper: int,
        nobody: int,
        splitter: Splitter | None,
        hosted: bool,
    ) -> None:
        """`nobody`: the id of rows beyond the batch. `hosted`: kernels ask the host for lengths."""
        self.size, self._cache, self._keeper = rows, cache, keeper
        self._nobody, self._splitter, self._hosted = nobody, splitter, hosted
        sizes = dict.fromkeys(("ids", "positions", "slots", "owners", "seqlens"), rows)
        sizes |= {"table": rows * width, "items": splitter.size if splitter else 0}
        self._stage = Stage(sizes, cache.device)
        at = self._stage.device
        self.ids, self.positions = at["ids"], at["positions"]
        self.slots, self.owners = at["slots"], at["owners"]
        items = splitter.items(at["items"]) if splitter else None
        table = at["table"].view(rows, width)
        self.rows = FixedRows(table, at["seqlens"], cache.block_tokens, items)
        self._table = np.zeros((rows, width), dtype=np.int32)
        self._seated: tuple[int, tuple[int, ...]] = (-1, ())

    def fill(self, segments: Sequence[Segment], deal_of: Callable[[int], Deal]) -> None:
        """Write the step in which every segment is one new token; counts it as cached."""
        assert 0 < len(segments) <= self.size
        host = self._stage.open()
        requests = tuple(segment.request for segment in segments)
        tail = [0] * (self.size - len(segments))
        lengths, slots, owners = self._places(segments, deal_of)
        host["ids"][:] = [*requests, *(self._nobody for _ in tail)]
        host["positions"][:] = [segment.start for segment in segments] + tail
        host["slots"][:] = [*slots, *(NOT_HERE for _ in tail)]
        host["owners"][:] = [*owners, *(NOT_HERE for _ in tail)]
        host["seqlens"][:] = lengths + tail
        host["table"][:] = self._blocks(requests)
        if self._splitter:
            self._splitter.cut(host["seqlens"], host["items"])
        self._stage.send()
        if self._hosted:
            self.rows.now = self._cache.rows([*requests, *tail], lengths + tail)

    def _places(
        self, segments: Sequence[Segment], deal_of: Callable[[int], Deal]
    ) -> tuple[list[int], list[int], list[int]]:
        """Of each request, the tokens that lie here, the slot of the new one, and its keeper."""
        cache, keeper, block = self._cache, self._keeper, self._cache.block_tokens
        lengths, slots, owners = [], [], []
        for segment in segments:
            deal, request = deal_of(segment.request), segment.request
            length = deal.tokens(segment.end, block, keeper)
            local = deal.local(segment.start, block, keeper)
            lengths.append(length)
            owners.append(deal.owner(segment.start // block))
            slots.append(NOT_HERE if local < 0 else cache.slot(request, local))
            if request in cache:
                cache.tokens[request] = length
        return lengths, slots, owners

    def _blocks(self, requests: tuple[int, ...]) -> np.ndarray:
        """Block numbers of the rows; the same until somebody comes, goes or moves."""
        seated = (self._cache.changes, requests)
        if seated != self._seated:
            self._seated = seated
            self._table[:] = 0
            for row, request in enumerate(requests):
                blocks = self._cache.tables.get(request, ())
                self._table[row, : len(blocks)] = blocks
        return self._table.reshape(-1)


class Stage:
    """Named runs of whole numbers, written on the host and copied to the device as one."""

    def __init__(self, sizes: dict[str, int], device: torch.device) -> None:
        total = sum(sizes.values())
        self._numbers = torch.zeros(total, dtype=torch.int32, device=device)
        self.device = dict(zip(sizes, self._numbers.split(list(sizes.values())), strict=True))
        self._on_gpu = device.type == "cuda"
        copies = [self._numbers]
        if self._on_gpu:
            copies = [torch.zeros(total, dtype=torch.int32, pin_memory=True) for _ in range(PINNED)]
            self._read = [torch.cuda.Event() for _ in copies]
        self._copies = copies
        borders = np.cumsum(list(sizes.values()))[:-1]
        self._host = [
            dict(zip(sizes, np.split(copy.numpy(), borders), strict=True)) for copy in copies
        ]
        self._turn = 0

    def open(self) -> dict[str, np.ndarray]:
        """A host copy that may be written: the device has read what it said last."""
        self._turn = (self._turn + 1) % len(self._copies)
        if self._on_gpu:
            self._read[self._turn].synchronize()
        return self._host[self._turn]

    def send(self) -> None:
        """Copy what was written, in the order of the current stream."""
        if self._on_gpu:
            self._numbers.copy_(self._copies[self._turn], non_blocking=True)
            self._read[self._turn].record()
