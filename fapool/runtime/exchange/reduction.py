"""Sums over the ranks of a group inside a node: one kernel where they are small, else NCCL."""

from __future__ import annotations

import torch
import torch.distributed as dist
import triton
from torch import Tensor

from fapool.runtime.exchange.arena import Arena
from fapool.runtime.exchange.layout import laid_out
from fapool.runtime.kernels.reduction import small_sum

BLOCK = 512  # words of 4 bytes that one CTA sums
LIMIT_BYTES = 128 * 1024
"""Of a vector: above it NCCL is faster. Measured: benchmarks/results/exchange.json."""
KINDS = {
    torch.float16: triton.language.float16,
    torch.bfloat16: triton.language.bfloat16,
    torch.float32: triton.language.float32,
}


class SmallSum:
    """All-reduce over `group`, bit for bit alike on all its ranks; collective to make.

    Sums of one object must be asked for in the same order, with the same sizes, on all ranks, and
    on one stream. A kernel that has polled `patience` times traps; 0: waits for ever.
    """

    def __init__(
        self,
        group: dist.ProcessGroup,
        device: torch.device,
        *,
        limit_bytes: int = LIMIT_BYTES,
        patience: int = 0,
    ) -> None:
        self._group, self._limit, self._patience = group, limit_bytes, patience
        self._ranks, self._rank = dist.get_world_size(group), dist.get_rank(group)
        self._ctas = -(-limit_bytes // (4 * BLOCK))
        self._capacity = self._ctas * BLOCK
        boxes = 2 * self._ranks * self._capacity * 8
        self._arena = Arena(laid_out(boxes)[-1], device, group)
        addresses = [self._arena.address(rank) for rank in range(self._ranks)]
        self._boxes = torch.tensor(addresses, dtype=torch.int64, device=device)
        self._counts = torch.zeros(self._ctas, dtype=torch.int32, device=device)

    def fits(self, x: Tensor) -> bool:
        """Whether one kernel sums `x`."""
        small = x.nbytes <= self._limit and x.nbytes % 4 == 0
        return small and x.dtype in KINDS and x.is_contiguous() and x.data_ptr() % 4 == 0

    def sum(self, x: Tensor) -> Tensor:
        """The sum of every rank's `x`, in place; rounded once, from fp32, where `x` is small."""
        if not self.fits(x):
            dist.all_reduce(x, group=self._group)
        elif self._ranks > 1 and x.numel():
            words = x.view(-1).view(torch.int32)
            small_sum[(-(-len(words) // BLOCK),)](
                words, words, self._boxes, self._counts, len(words), self._patience,
                RANK=self._rank, RANKS=self._ranks, CAPACITY=self._capacity,
                dtype=KINDS[x.dtype], BLOCK=BLOCK,
            )  # fmt: skip
        return x
