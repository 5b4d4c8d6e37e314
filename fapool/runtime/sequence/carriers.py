"""Which carrier a group of ranks can use: one-sided writes inside a node, messages elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

import torch.distributed as dist
from torch import Tensor

from fapool.runtime.exchange.arena import unfit
from fapool.runtime.sequence.base import Carrier
from fapool.runtime.sequence.messages import Messages
from fapool.runtime.sequence.symmetric import Symmetric


def carrier(group: dist.ProcessGroup, *, max_rows: int, like: Sequence[Tensor]) -> Carrier:
    """The best carrier of `like`'s rows among all ranks of `group`; collective over it.

    Messages take CPU tensors over gloo and CUDA tensors over NCCL, not one over the other.
    """
    if dist.get_world_size(group) > 1 and unfit(like[0].device, group) is None:
        return Symmetric(group, max_rows=max_rows, like=like)
    return Messages(group)
