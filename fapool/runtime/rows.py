"""What a batch's requests have in a cache, as kernels read it: tables, lengths, strided views.

shapes:  N blocks, P tokens of a block, K KV heads, D head dim, B requests, W widest row, S tokens
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """What a batch of B requests may see: their blocks and the tokens in them.

    The same rows serve every layer of a step. A request with no token here is an empty row.
    """

    blocks: tuple[tuple[int, ...], ...]
    lengths: tuple[int, ...]
    block_tokens: int
    device: torch.device

    @cached_property
    def table(self) -> Tensor:
        """Block numbers [B, widest], int32, padded with 0."""
        widest = max(1, max(map(len, self.blocks), default=1))
        padded = [[*blocks, *[0] * (widest - len(blocks))] for blocks in self.blocks]
        return _on(self.device, padded)

    @cached_property
    def seqlens(self) -> Tensor:
        """Tokens [B], int32."""
        return _on(self.device, self.lengths)

    @cached_property
    def runs(self) -> tuple[tuple[int, int, int, int | None], ...]:
        """Rows that one strided view can hold: (first row, rows, first block, stride in blocks).

        First block None: the row's blocks are scattered and have to be gathered.
        """
        found: list[list] = []
        for row, blocks in enumerate(self.blocks):
            if not blocks:
                continue
            start = blocks[0] if _consecutive(blocks) else None
            last = found[-1] if found else None
            if last and start is not None and self._joins(last, row, start):
                last[1] += 1
                last[3] = start - self.blocks[row - 1][0]
            else:
                found.append([row, 1, start, 0])
        return tuple(tuple(run) for run in found)

    def _joins(self, run: list, row: int, start: int) -> bool:
        if run[2] is None or run[0] + run[1] != row:
            return False
        stride = start - self.blocks[row - 1][0]
        same_length = self.lengths[row] == self.lengths[row - 1]
        return same_length and stride > 0 and (run[1] == 1 or stride == run[3])


def _consecutive(blocks: tuple[int, ...]) -> bool:
    return blocks[-1] - blocks[0] == len(blocks) - 1 and list(blocks) == sorted(blocks)


@dataclass
class FixedRows:
    """Rows whose tensors stay where they are: what they say is written anew for each step.

    `now` says the same to kernels that have to know lengths on the host.
    """

    table: Tensor  # [B, W] int32
    seqlens: Tensor  # [B] int32
    block_tokens: int
    splits: Any = None  # work items of the decode kernel, if it wants any
    now: Rows | None = None

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of each row."""
        return self.now.lengths

    @property
    def blocks(self) -> tuple[tuple[int, ...], ...]:
        """Block numbers of each row."""
        return self.now.blocks

    @property
    def runs(self) -> tuple[tuple[int, int, int, int | None], ...]:
        """See `Rows.runs`."""
        return self.now.runs


@dataclass(frozen=True)
class KVView:
    """One layer's keys and values for a batch. `k_pages`, `v_pages` [N, P, K, D]."""

    k_pages: Tensor
    v_pages: Tensor
    rows: Rows | FixedRows

    def dense(self) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Yield (row slice, k [b, S, K, D], v) of all rows that hold anything, in order.

        Copies only what lies scattered.
        """
        for row, count, start, stride in self.rows.runs:
            length = self.rows.lengths[row]
            at = slice(row, row + count)
            if start is None:
                blocks = _on(self.k_pages.device, self.rows.blocks[row])
                pair = (pages[blocks].flatten(0, 1)[None, :length] for pages in self._pages)
            else:
                pair = (_strided(pages, start, count, stride, length) for pages in self._pages)
            yield at, *pair

    @property
    def _pages(self) -> tuple[Tensor, Tensor]:
        return self.k_pages, self.v_pages


def _on(device: torch.device, numbers: Sequence) -> Tensor:
    """int32, copied without making the host wait."""
    host = torch.tensor(numbers, dtype=torch.int32)
    return host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else host


def _strided(pages: Tensor, start: int, count: int, stride: int, length: int) -> Tensor:
    _, _, heads, dim = pages.shape
    per_block, per_token = pages.stride(0), pages.stride(1)
    return pages[start:].as_strided(
        (count, length, heads, dim), (max(stride, 1) * per_block, per_token, dim, 1)
    )
