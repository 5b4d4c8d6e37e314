"""Memory of every rank of a group that all of them have mapped: torch's symmetric memory."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib.util import find_spec
from math import prod

import torch
import torch.distributed as dist
import torch.distributed._symmetric_memory as symmetric
from torch import Tensor


class Arena:
    """`num_bytes` at each rank of `group`, zero at first. Collective: the same size everywhere.

    No multicast and no signal pad: kernels read and write addresses of peers.
    """

    def __init__(self, num_bytes: int, device: torch.device, group: dist.ProcessGroup) -> None:
        self._memory = symmetric.empty(num_bytes, dtype=torch.uint8, device=device)
        self._memory.zero_()
        torch.cuda.synchronize(device)  # before any peer can write
        self._handle = symmetric.rendezvous(self._memory, group)
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)

    def address(self, rank: int, offset: int = 0) -> int:
        """Where byte `offset` of `rank` (in the group) is for this device."""
        if rank == self.rank:
            return self._memory.data_ptr() + offset
        return self._handle.get_buffer(rank, (1,), torch.uint8, offset).data_ptr()

    def local(self, offset: int, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """This rank's memory from byte `offset` on."""
        num_bytes = prod(shape) * dtype.itemsize
        return self._memory[offset : offset + num_bytes].view(dtype).view(shape)


def unfit(device: torch.device, group: dist.ProcessGroup) -> str | None:
    """What keeps the ranks of `group` from sharing memory; None when nothing does. Collective."""
    mine = None if device.type == "cuda" else f"runs on CUDA devices, not on {device.type}"
    if find_spec("triton") is None:
        mine = "needs the package triton, which is not installed"
    told: list = [None] * dist.get_world_size(group)
    gpu = str(torch.cuda.get_device_properties(device).uuid) if device.type == "cuda" else ""
    dist.all_gather_object(told, (mine, platform.node(), device.index, gpu), group=group)
    reasons = [reason for reason, *_ in told if reason]
    if reasons:
        return reasons[0]
    if len({host for _, host, *_ in told}) > 1:
        return "needs all ranks on one node"
    if len({gpu for *_, gpu in told}) < len(told):
        return "needs a GPU for each rank"
    peers = {index for _, _, index, _ in told if index != device.index}
    if not all(torch.cuda.can_device_access_peer(device, peer) for peer in peers):
        return "needs GPUs that reach each other's memory"
    return None
