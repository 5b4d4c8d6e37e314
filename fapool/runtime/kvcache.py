"""Keys and values of one rank, in blocks: which block holds what.

    shapes:  L layers, N blocks, P tokens of a block, K KV heads, D head dim, T tokens

A request reserves its blocks when it comes, side by side where there is room: its keys are then
one slice of memory, read without a copy, and equal requests are one strided batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fapool.runtime.blocks import BlockPool
from fapool.runtime.elementwise import operations
from fapool.runtime.rows import FixedRows, KVView, Rows


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
        self._ops = operations(device, dtype)
        self._pool = BlockPool(blocks)
        self._held: dict[int, list[int]] = {}
        self.tables: dict[int, np.ndarray] = {}  # request -> its blocks, int32
        self.tokens: dict[int, int] = {}  # request -> tokens that lie here
        self.changes = 0  # requests that came or went

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
        self.tables[request] = np.array(self._held[request], dtype=np.int32)
        self.tokens[request] = 0
        self.changes += 1

    def free(self, request: int) -> None:
        """Forget a request."""
        self._pool.free(self._held.pop(request))
        del self.tokens[request], self.tables[request]
        self.changes += 1

    def clear(self) -> None:
        """Forget all requests."""
        for request in list(self._held):
            self.free(request)

    def slots(self, request: int, positions: Sequence[int]) -> list[int]:
        """Where local tokens `positions` of a request lie, as indices into [N * P]."""
        blocks, size = self._held[request], self.block_tokens
        return [blocks[p // size] * size + p % size for p in positions]

    def rows(self, requests: Sequence[int], lengths: Sequence[int]) -> Rows:
        """The first `lengths[i]` local tokens of each request; 0 also where it is not here."""
        size = self.block_tokens
        blocks = tuple(
            tuple(self._held[request][: -(-length // size)]) if length else ()
            for request, length in zip(requests, lengths, strict=True)
        )
        return Rows(blocks, tuple(lengths), size, self.device)

    def view(self, layer: int, rows: Rows | FixedRows) -> KVView:
        """One layer (its global number) of the rows."""
        index = layer - self.layers.start
        return KVView(self._k[index], self._v[index], rows)

    def append(self, layer: int, slots: Tensor, k: Tensor, v: Tensor) -> None:
        """Write k, v [T, K, D] of one layer at `slots` [T]; a negative slot writes nothing."""
        place = self.place_of(layer, slots)
        if place is not None:
            self._ops.append(*place, k, v)

    def place_of(self, layer: int, slots: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
        """Where new keys at `slots` are to be written: k, v pages [N, P, K, D] and the slots.

        None where there are no blocks at all.
        """
        index = layer - self.layers.start
        return (self._k[index], self._v[index], slots) if self._pool.blocks else None

    def read(self, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values at `slots` [T], all layers: two tensors [L, T, K, D], copied."""
        return self._k.flatten(1, 2)[:, slots], self._v.flatten(1, 2)[:, slots]

    def write(self, slots: Tensor, k: Tensor, v: Tensor) -> None:
        """Write k, v [L, T, K, D] of all layers at `slots` [T]."""
        self._k.flatten(1, 2).index_copy_(1, slots, k)
        self._v.flatten(1, 2).index_copy_(1, slots, v)
