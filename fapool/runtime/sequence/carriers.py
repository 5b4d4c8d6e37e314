"""Which carrier a group of ranks can use: one-sided writes inside a node, messages elsewhere."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from fapool.runtime.sequence.base import Carrier
from fapool.runtime.sequence.messages import Messages
from fapool.runtime.sequence.symmetric import Symmetric


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a rank says of itself: its host, its GPU (-1: none), the GPUs that it reaches."""

    host: str
    gpu: int
    reaches: frozenset[int]


def carrier(group: dist.ProcessGroup, *, max_rows: int, like: Sequence[Tensor]) -> Carrier:
    """The best carrier of `like`'s rows among all ranks of `group`; collective over it.

    Messages take CPU tensors over gloo and CUDA tensors over NCCL, not one over the other.
    """
    told: list[Seen | None] = [None] * dist.get_world_size(group)
    dist.all_gather_object(told, look(like[0].device), group=group)
    if len(told) > 1 and one_sided(told):
        return Symmetric(group, max_rows=max_rows, like=like)
    return Messages(group)


def look(device: torch.device) -> Seen:
    """What this rank says."""
    if device.type != "cuda":
        return Seen(host=platform.node(), gpu=-1, reaches=frozenset())
    own = torch.cuda.current_device() if device.index is None else device.index
    others = set(range(torch.cuda.device_count())) - {own}
    reaches = {gpu for gpu in others if torch.cuda.can_device_access_peer(own, gpu)}
    return Seen(host=platform.node(), gpu=own, reaches=frozenset(reaches))


def one_sided(told: Sequence[Seen]) -> bool:
    """Whether all are on one host, on GPUs of their own that reach all the others'."""
    gpus = {seen.gpu for seen in told}
    return (
        len({seen.host for seen in told}) == 1
        and -1 not in gpus
        and len(gpus) == len(told)
        and all(gpus - {seen.gpu} <= seen.reaches for seen in told)
    )
