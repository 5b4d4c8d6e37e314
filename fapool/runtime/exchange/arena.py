"""Memory of every rank of a group that all of them have mapped: torch's symmetric memory.

Torch numbers what a process shares in one count for all of its groups, and waits for ever for a
peer that counts otherwise (pytorch#196082). So a plan shares memory among all of its ranks, or in
groups that all of them are in alike, and `unfit` compares the counts before anybody waits.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib.util import find_spec
from math import prod

import torch
import torch.distributed as dist
import torch.distributed._symmetric_memory as symmetric
from torch import Tensor

PATIENCE_S = 600
"""How long a rank waits for another before it gives up by itself; supervisors are quicker."""

TIMEOUT_MS = PATIENCE_S * 1_000

POLLS = PATIENCE_S * 1_000_000
"""The same in polls of a flag by a kernel, each about 1 us; fits 31 bits."""

MISSING = "needs the package triton, which is not installed"
UNEVEN = "its ranks have shared memory unequally often: restart them"

_met = [0]  # times that this process has shared memory, whoever with


def meet(memory: Tensor, group: dist.ProcessGroup):
    """Torch's handle of `memory`, of equal size at every rank of `group`. Collective."""
    _met[0] += 1
    return symmetric.rendezvous(memory, group)


class Arena:
    """`num_bytes` at each rank of `group`, zero at first. Collective: the same size everywhere.

    No multicast and no signal pad: kernels read and write addresses of peers.
    """

    def __init__(self, num_bytes: int, device: torch.device, group: dist.ProcessGroup) -> None:
        self._memory = symmetric.empty(num_bytes, dtype=torch.uint8, device=device)
        self._memory.zero_()
        torch.cuda.synchronize(device)  # before any peer can write
        self._handle = meet(self._memory, group)
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)

    @property
    def num_bytes(self) -> int:
        """At this rank."""
        return self._memory.nbytes

    def address(self, rank: int, offset: int = 0) -> int:
        """Where byte `offset` of `rank` (in the group) is for this device."""
        if rank == self.rank:
            return self._memory.data_ptr() + offset
        return self._handle.get_buffer(rank, (1,), torch.uint8, offset).data_ptr()

    def local(self, offset: int, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """This rank's memory from byte `offset` on."""
        num_bytes = prod(shape) * dtype.itemsize
        return self._memory[offset : offset + num_bytes].view(dtype).view(shape)


def unfit_here(device: torch.device, dtype: torch.dtype) -> str | None:
    """What keeps this rank from sharing memory, whoever with; None when nothing does."""
    if device.type != "cuda":
        return f"runs on CUDA devices, not on {device.type}"
    if dtype == torch.float64:
        return "takes float32 and half precision, not float64"
    return MISSING if find_spec("triton") is None else None


def unfit(
    device: torch.device, group: dist.ProcessGroup, dtype: torch.dtype = torch.float32
) -> str | None:
    """What keeps the ranks of `group` from sharing memory; None when nothing does. Collective."""
    told: list = [None] * dist.get_world_size(group)
    gpu = str(torch.cuda.get_device_properties(device).uuid) if device.type == "cuda" else ""
    mine = unfit_here(device, dtype), platform.node(), device.index, gpu, _met[0]
    dist.all_gather_object(told, mine, group=group)
    reasons, hosts, indices, gpus, counts = zip(*told, strict=True)
    if any(reasons):
        return next(filter(None, reasons))
    if len(set(hosts)) > 1:
        return "needs all ranks on one node"
    if len(set(gpus)) < len(told):
        return "needs a GPU for each rank"
    if len(set(counts)) > 1:
        return UNEVEN
    peers = set(indices) - {device.index}
    if not all(torch.cuda.can_device_access_peer(device, peer) for peer in peers):
        return "needs GPUs that reach each other's memory"
    return None
