"""Sums over the ranks of a group inside a node: one kernel of ours where they are small, torch's
two-shot kernel where they are not, NCCL beyond.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
import triton
from torch import Tensor

from fapool.runtime.exchange.arena import Arena
from fapool.runtime.kernels.reduction import small_sum

BLOCK = 512  # words of 4 bytes that one CTA sums
SENT_BYTES = 512 * 1024
"""That a rank sends (the vector, to every other rank): above it two shots are faster."""
SHARED_BYTES = 4 * 1024 * 1024
"""Of the largest vector that takes two shots. Figures: benchmarks/results/exchange.json."""
KINDS = {
    torch.float16: triton.language.float16,
    torch.bfloat16: triton.language.bfloat16,
    torch.float32: triton.language.float32,
}


class SmallSum:
    """All-reduce over `group`, bit for bit alike on all its ranks; collective to make.

    Sums of one object must be asked for in the same order, with the same sizes, on all ranks, and
    on one stream. A kernel that has polled `patience` times traps; 0: waits for ever.

    `boxes`: memory of `num_bytes(ranks of group)`, shared in a larger group whose first ranks are
    `group`. Torch's kernel wants memory that `group` alone shares, and is not used then.
    """

    def __init__(
        self,
        group: dist.ProcessGroup,
        device: torch.device,
        *,
        limit_bytes: int | None = None,
        patience: int = 0,
        boxes: Arena | None = None,
    ) -> None:
        self._group, self._patience = group, patience
        self._ranks, self._rank = dist.get_world_size(group), dist.get_rank(group)
        self._limit = limit_bytes or _limit_bytes(self._ranks)
        ctas = _ctas(self._limit)
        self._capacity = ctas * BLOCK
        self._arena = boxes or Arena(num_bytes(self._ranks, self._limit), device, group)
        assert self._arena.rank == self._rank, "the group's ranks are not the first of the larger"
        addresses = [self._arena.address(rank) for rank in range(self._ranks)]
        self._boxes = torch.tensor(addresses, dtype=torch.int64, device=device)
        self._counts = torch.zeros(ctas, dtype=torch.int32, device=device)
        self._shared = None if boxes else Arena(SHARED_BYTES, device, group)

    @property
    def held_bytes(self) -> int:
        """Of the device's memory, for good."""
        return self._arena.num_bytes + (self._shared.num_bytes if self._shared else 0)

    def fits(self, x: Tensor) -> bool:
        """Whether one kernel of ours sums `x`."""
        return x.nbytes <= self._limit and x.nbytes % 4 == 0 and self._plain(x)

    def sum(self, x: Tensor) -> Tensor:
        """The sum of every rank's `x`, in place; rounded once, from fp32, where `fits(x)`."""
        if self._ranks == 1 or not x.numel():
            return x
        if self.fits(x):
            words = x.view(-1).view(torch.int32)
            small_sum[(-(-len(words) // BLOCK),)](
                words, words, self._boxes, self._counts, len(words), self._patience,
                RANK=self._rank, RANKS=self._ranks, CAPACITY=self._capacity,
                dtype=KINDS[x.dtype], BLOCK=BLOCK,
            )  # fmt: skip
        elif self._shares(x):
            shared, name = self._shared.local(0, x.shape, x.dtype), self._group.group_name
            shared.copy_(x)
            torch.ops.symm_mem.two_shot_all_reduce_out(shared, "sum", name, x)
        else:
            dist.all_reduce(x, group=self._group)
        return x

    def _shares(self, x: Tensor) -> bool:
        # Torch's kernel is not there for float16.
        whole = x.nbytes % (16 * self._ranks) == 0 and x.dtype != torch.float16
        return bool(self._shared) and x.nbytes <= SHARED_BYTES and whole and self._plain(x)

    def _plain(self, x: Tensor) -> bool:
        # What is asked here must be alike on all ranks, as their choice of a way must be.
        assert x.data_ptr() % 16 == 0, "a sum of a tensor that is not aligned"
        return x.dtype in KINDS and x.is_contiguous()


def num_bytes(ranks: int, limit_bytes: int | None = None) -> int:
    """Of the boxes at each rank, for sums over `ranks`."""
    return 2 * ranks * _ctas(limit_bytes or _limit_bytes(ranks)) * BLOCK * 8


def _limit_bytes(ranks: int) -> int:
    return SENT_BYTES // max(1, ranks - 1)


def _ctas(limit_bytes: int) -> int:
    return -(-limit_bytes // (4 * BLOCK))
