"""Keys and values in blocks: which block holds what, and views that kernels can read.

    shapes:  L layers, N blocks, P tokens of a block, K KV heads, D head dim, B requests, S tokens

A request reserves its blocks when it comes, side by side where there is room: its keys are then
one slice of memory, read without a copy, and equal requests are one strided batch.

    invariant: free blocks + reserved blocks = all blocks, no block twice
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


class BlockPool:
    """Block numbers, free or reserved. Takes the first gap that is wide enough, else any."""

    def __init__(self, blocks: int) -> None:
        self.blocks = blocks
        self._free = set(range(blocks))

    def __len__(self) -> int:
        return len(self._free)

    def reserve(self, number: int) -> list[int]:
        """`number` blocks, consecutive if possible."""
        assert number <= len(self._free), f"{number} blocks wanted, {len(self._free)} free"
        if not number:
            return []
        taken = self._gap(number) or sorted(self._free)[:number]
        self._free.difference_update(taken)
        return taken

    def free(self, blocks: Sequence[int]) -> None:
        """Take blocks back."""
        assert self._free.isdisjoint(blocks), "block freed twice"
        self._free.update(blocks)

    def _gap(self, number: int) -> list[int]:
        run: list[int] = []
        for block in sorted(self._free):
            run = [*run, block] if run and run[-1] == block - 1 else [block]
            if len(run) >= number:
                return run
        return []


@dataclass(frozen=True)
class Rows:
    """What a batch of B requests may see: their blocks and the tokens in them.

    The same rows serve every layer of a step.
    """

    blocks: tuple[tuple[int, ...], ...]
    lengths: tuple[int, ...]
    block_tokens: int
    device: torch.device

    @cached_property
    def table(self) -> Tensor:
        """Block numbers [B, widest], int32, padded with 0."""
        widest = max(len(blocks) for blocks in self.blocks)
        padded = [[*blocks, *[0] * (widest - len(blocks))] for blocks in self.blocks]
        return torch.tensor(padded, dtype=torch.int32, device=self.device)

    @cached_property
    def seqlens(self) -> Tensor:
        """Tokens [B], int32."""
        return torch.tensor(self.lengths, dtype=torch.int32, device=self.device)

    @cached_property
    def runs(self) -> tuple[tuple[int, int, int, int | None], ...]:
        """Rows that one strided view can hold: (first row, rows, first block, stride in blocks).

        First block None: the row's blocks are scattered and have to be gathered.
        """
        found: list[list] = []
        for row, blocks in enumerate(self.blocks):
            start = blocks[0] if _consecutive(blocks) else None
            last = found[-1] if found else None
            if last and start is not None and last[2] is not None and self._joins(last, row, start):
                last[1] += 1
                last[3] = start - self.blocks[row - 1][0]
            else:
                found.append([row, 1, start, 0])
        return tuple(tuple(run) for run in found)

    def _joins(self, run: list, row: int, start: int) -> bool:
        stride = start - self.blocks[row - 1][0]
        same_length = self.lengths[row] == self.lengths[row - 1]
        return same_length and stride > 0 and (run[1] == 1 or stride == run[3])


def _consecutive(blocks: tuple[int, ...]) -> bool:
    return blocks[-1] - blocks[0] == len(blocks) - 1 and list(blocks) == sorted(blocks)


@dataclass(frozen=True)
class KVView:
    """One layer's keys and values for a batch. `k_pages`, `v_pages` [N, P, K, D]."""

    k_pages: Tensor
    v_pages: Tensor
    rows: Rows

    def dense(self) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Yield (row slice, k [b, S, K, D], v) of all rows in order; copies only scattered."""
        for row, count, start, stride in self.rows.runs:
            length = self.rows.lengths[row]
            at = slice(row, row + count)
            if start is None:
                blocks = torch.tensor(self.rows.blocks[row], device=self.k_pages.device)
                pair = (pages[blocks].flatten(0, 1)[None, :length] for pages in self._pages)
            else:
                pair = (_strided(pages, start, count, stride, length) for pages in self._pages)
            yield at, *pair

    @property
    def _pages(self) -> tuple[Tensor, Tensor]:
        return self.k_pages, self.v_pages


def _strided(pages: Tensor, start: int, count: int, stride: int, length: int) -> Tensor:
    _, _, heads, dim = pages.shape
    per_block, per_token = pages.stride(0), pages.stride(1)
    return pages[start:].as_strided(
        (count, length, heads, dim), (max(stride, 1) * per_block, per_token, dim, 1)
    )


class KVCache:
    """The blocks of one rank: its layers and KV heads of the requests that live on it."""

    def __init__(
        self,
        *,
        layers: range,
        blocks: int,
        block_tokens: int,
        kv_heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        shape = (len(layers), blocks, block_tokens, kv_heads, head_dim)
        self._k = torch.zeros(shape, dtype=dtype, device=device)
        self._v = torch.zeros(shape, dtype=dtype, device=device)
        self.layers, self.block_tokens, self.device = layers, block_tokens, device
        self._pool = BlockPool(blocks)
        self._held: dict[int, list[int]] = {}
        self.tokens: dict[int, int] = {}  # request -> tokens that lie here

    @property
    def num_bytes(self) -> int:
        """Bytes reserved for keys and values, used or not."""
        return self._k.nbytes + self._v.nbytes

    @property
    def num_tokens(self) -> int:
        """Tokens that lie here, of all requests."""
        return sum(self.tokens.values())

    @property
    def used_bytes(self) -> int:
        """Bytes of their keys and values."""
        return self.num_tokens * self.bytes_per_token

    @property
    def bytes_per_token(self) -> int:
        """Bytes of one token over the rank's layers and KV heads."""
        layers, _, _, heads, dim = self._k.shape
        return 2 * layers * heads * dim * self._k.itemsize

    def __contains__(self, request: int) -> bool:
        return request in self._held

    def reserve(self, request: int, blocks: int) -> None:
        """Set blocks aside for all the tokens that a request will ever have here."""
        assert request not in self._held, f"request {request} is here already"
        self._held[request] = self._pool.reserve(blocks)
        self.tokens[request] = 0

    def free(self, request: int) -> None:
        """Forget a request."""
        self._pool.free(self._held.pop(request))
        del self.tokens[request]

    def slots(self, request: int, positions: Sequence[int]) -> list[int]:
        """Where local tokens `positions` of a request lie, as indices into [N * P]."""
        blocks, size = self._held[request], self.block_tokens
        return [blocks[p // size] * size + p % size for p in positions]

    def rows(self, requests: Sequence[int], lengths: Sequence[int]) -> Rows:
        """The first `lengths[i]` (>= 1) local tokens of each request."""
        size = self.block_tokens
        blocks = tuple(
            tuple(self._held[request][: -(-length // size)])
            for request, length in zip(requests, lengths, strict=True)
        )
        return Rows(blocks, tuple(lengths), size, self.device)

    def view(self, layer: int, rows: Rows) -> KVView:
        """One layer (its global number) of the rows."""
        index = layer - self.layers.start
        return KVView(self._k[index], self._v[index], rows)

    def append(self, layer: int, slots: Tensor, k: Tensor, v: Tensor) -> None:
        """Write k, v [T, K, D] of one layer at `slots` [T]."""
        index = layer - self.layers.start
        self._k[index].flatten(0, 1).index_copy_(0, slots, k)
        self._v[index].flatten(0, 1).index_copy_(0, slots, v)

    def read(self, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values at `slots` [T], all layers: two tensors [L, T, K, D], copied."""
        return self._k.flatten(1, 2)[:, slots], self._v.flatten(1, 2)[:, slots]

    def write(self, slots: Tensor, k: Tensor, v: Tensor) -> None:
        """Write k, v [L, T, K, D] of all layers at `slots` [T]."""
        self._k.flatten(1, 2).index_copy_(1, slots, k)
        self._v.flatten(1, 2).index_copy_(1, slots, v)
