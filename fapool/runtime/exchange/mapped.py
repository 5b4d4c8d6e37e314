"""Memory at each rank that all ranks of a group write by copy engines, and flags that say so.

A kernel would wait for a free SM; copies and the flags behind them wait in their own stream.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.distributed._symmetric_memory as symmetric
from torch import Tensor

from fapool.runtime.exchange.arena import TIMEOUT_MS, meet

ALIGNMENT = 256  # bytes


class Mapped:
    """`num_bytes` at each rank of `group`, and a flag of each sender on each of `channels`.

    Collective: sizes are alike on all ranks. `memory` is uint8 [num_bytes] of every rank.
    """

    def __init__(
        self, group: dist.ProcessGroup, device: torch.device, num_bytes: int, channels: int
    ) -> None:
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)
        memory = symmetric.empty(num_bytes, dtype=torch.uint8, device=device)
        self._handle = handle = meet(memory, group)
        ranks, pad = range(self.size), (channels * self.size,)
        self.memory = [handle.get_buffer(rank, (num_bytes,), torch.uint8) for rank in ranks]
        # [channel, sender], where `wait_signal(sender, channel)` looks
        self._pads = [handle.get_signal_pad(rank, pad, torch.uint32) for rank in ranks]
        self.stream = torch.cuda.Stream(priority=-1)

    @property
    def own(self) -> Tensor:
        """This rank's memory."""
        return self.memory[self.rank]

    def signal(self, rank: int, channel: int) -> None:
        """Raise this rank's flag at `rank`, in the order of the current stream.

        By the stream itself: the write comes after the copies before it and is preceded by a fence
        of the system.
        """
        at = channel * self.size + self.rank
        torch._C._distributed_c10d._SymmetricMemory.stream_write_value32(self._pads[rank], at, 1)

    def wait(self, rank: int, channel: int) -> None:
        """Hold the current stream until `rank` has raised its flag here, and take it down."""
        self._handle.wait_signal(rank, channel=channel, timeout_ms=TIMEOUT_MS)


def aligned(num_bytes: int) -> int:
    """`num_bytes` rounded up."""
    return -(-num_bytes // ALIGNMENT) * ALIGNMENT
