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
from fapool.instrument.streams import current_stream
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
        self._ids = np.full(rows, nobody, dtype=np.int32)
        self._seated: tuple[int, tuple[int, ...]] = (-1, ())
        self._held = np.zeros(rows, dtype=np.int32)  # tokens that lie here, of each row
        self._groups: list[tuple[np.ndarray, ...]] = []
        self._here: list[tuple[int, int]] = []  # (row, request) of those that have blocks here

    def reseat(self) -> None:
        """Deals have changed, maybe without a request that came or went here."""
        self._seated = (-1, ())

    def fill(self, segments: Sequence[Segment], deal_of: Callable[[int], Deal]) -> None:
        """Write the step in which every segment is one new token; counts it as cached."""
        assert 0 < len(segments) <= self.size
        host = self._stage.open()
        self._seat(tuple(segment.request for segment in segments), deal_of)
        host["ids"][:], host["table"][:] = self._ids, self._table.reshape(-1)
        positions, lengths = host["positions"], host["seqlens"]
        positions[len(segments) :] = 0
        positions[: len(segments)] = [segment.start for segment in segments]
        lengths[:], host["slots"][:], host["owners"][:] = 0, NOT_HERE, NOT_HERE
        self._write_places(host)
        if self._splitter:
            self._splitter.cut(lengths, host["items"])
        held = self._held.tolist()
        for row, request in self._here:
            self._cache.tokens[request] = held[row]
        self._stage.send()
        if self._hosted:
            requests = [segment.request for segment in segments]
            tail = [0] * (self.size - len(segments))
            self.rows.now = self._cache.rows(requests + tail, lengths.tolist())

    def _write_places(self, host: dict[str, np.ndarray]) -> None:
        """Tokens to attend over here, the slot of the new one and its keeper, of every seated row.

        As `Deal.tokens`, `Deal.local` and `Deal.owner` have it, for all rows of a deal at once.
        """
        block, last = self._cache.block_tokens, self._table.shape[1] - 1
        for rows, pattern, ahead, kept, reads in self._groups:
            number, rest = np.divmod(host["positions"][rows], block)
            rounds, turn = np.divmod(number, len(pattern))
            held = rounds * ahead[-1] + ahead[turn]
            mine = kept[turn]
            host["owners"][rows] = pattern[turn]
            self._held[rows] = tokens = held * block + (rest + 1) * mine
            host["seqlens"][rows] = tokens * reads
            slots = self._table[rows, np.minimum(held, last)] * block + rest
            host["slots"][rows] = np.where(mine, slots, NOT_HERE)

    def _seat(self, requests: tuple[int, ...], deal_of: Callable[[int], Deal]) -> None:
        """Look up blocks and deals; they stay until somebody comes, goes or moves."""
        seated = (self._cache.changes, requests)
        if seated == self._seated:
            return
        self._seated = seated
        self._table[:], self._ids[:] = 0, self._nobody
        self._ids[: len(requests)] = requests
        by_deal: dict[Deal, list[int]] = {}
        self._here = []
        for row, request in enumerate(requests):
            by_deal.setdefault(deal_of(request), []).append(row)
            blocks = self._cache.tables.get(request)
            if blocks is not None:
                self._table[row, : len(blocks)] = blocks
                self._here.append((row, request))
        self._groups = [(np.array(rows), *self._of(deal)) for deal, rows in by_deal.items()]

    def _of(self, deal: Deal) -> tuple[np.ndarray, ...]:
        """A deal as this keeper sees it: turns, its blocks ahead, its turns, whether it attends."""
        keeper, turns = self._keeper, range(len(deal.pattern))
        kept = [deal.keeps(turn, keeper) for turn in turns]
        return tuple(map(np.array, (deal.pattern, deal.ahead(keeper), kept, deal.reads(keeper))))


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
            self._read[self._turn].record(current_stream(self._numbers.device))
