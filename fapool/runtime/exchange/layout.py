"""Where things lie in the shared memory of a link: bytes, alike on all ranks; pure arithmetic."""

from __future__ import annotations

import torch

from fapool.runtime.exchange.link import Route

ALIGNMENT = 256  # bytes; more than any access, and no two tensors share a cache line
FLAGS = 128  # words of one sender: `kernels.signals.STRIDE`


def laid_out(*sizes: int) -> list[int]:
    """Offsets of pieces of `sizes` bytes, one after the other, and behind the last the total."""
    offsets = [0]
    for size in sizes:
        offsets.append(offsets[-1] + -(-size // ALIGNMENT) * ALIGNMENT)
    return offsets


def flags_of(index: int) -> int:
    """Byte at which the flags of a rank's `index`-th end begin."""
    return 4 * FLAGS * index


def pool_places(at: Route, rows: int, dtype: torch.dtype) -> list[int]:
    """Bytes at which q, k and v begin at a pool rank, and the total."""
    sizes = [
        rows * n * at.head_dim * dtype.itemsize
        for n in (at.group_heads, at.group_kv_heads, at.group_kv_heads)
    ]
    return laid_out(flags_of(at.world), *sizes)[1:]


def base_places(at: Route, rows: int, dtype: torch.dtype, columns: int) -> list[int]:
    """Bytes at which out and lse begin at a base rank, and the total."""
    items = columns * rows * at.base_heads
    return laid_out(flags_of(at.world), items * at.head_dim * dtype.itemsize, 4 * items)[1:]
