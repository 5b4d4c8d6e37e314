"""Which way a run's exchange takes: one-sided stores where GPUs of a node reach each other, and
messages of a process group anywhere else.
"""

from __future__ import annotations

import torch
import torch.distributed as dist

from fapool.errors import SpecError
from fapool.runtime.exchange import message_link
from fapool.runtime.exchange.collective import Collective
from fapool.runtime.exchange.link import BaseLink, PoolLink
from fapool.runtime.span import Span
from fapool.spec import RunSpec

try:
    from fapool.runtime.exchange import symmetric
    from fapool.runtime.exchange.arena import Arena, unfit
    from fapool.runtime.exchange.reduction import SmallSum
    from fapool.runtime.exchange.symmetric_shards import LEAST_LAYERS, SymmetricShards
except ImportError:  # no triton
    symmetric = None

MISSING = "needs the package triton, which is not installed"


def one_sided(spec: RunSpec, device: torch.device, group: dist.ProcessGroup | None) -> bool:
    """Whether the ranks of `group` store into each other's memory; collective over it.

    Raises:
        SpecError: the spec insists on it and they cannot.
    """
    if spec.transport == "messages" or group is None or dist.get_world_size(group) == 1:
        return False
    why = MISSING if symmetric is None else unfit(device, group)
    if why is None and spec.model.dtype == "float64":
        why = "takes float32 and half precision, not float64"
    if why and spec.transport == "symmetric":
        raise SpecError("transport", spec.transport, f"{why}; choose auto")
    return why is None


def open_links(
    spec: RunSpec,
    rank: int,
    *,
    rows: int,
    device: torch.device,
    groups: tuple[dist.ProcessGroup, dist.ProcessGroup],
    span: Span,
    shared: bool,
) -> tuple[BaseLink | PoolLink, ...]:
    """A link for each half-batch; `shared`: by one-sided stores. Collective over the plan's ranks.

    Messages take a group each: NCCL does those of one group in turn.
    """
    like = {"rows": rows, "dtype": getattr(torch, spec.model.dtype), "device": device, "span": span}
    if shared:
        return symmetric.open_links(spec, rank, **like, group=groups[0], channels=len(groups))
    return tuple(
        message_link.open_links(spec, rank, **like, group=group, name=f":link{number or ''}")[0]
        for number, group in enumerate(groups)
    )


def open_sum(
    spec: RunSpec, device: torch.device, group: dist.ProcessGroup | None
) -> SmallSum | None:
    """Sums over `group` by kernels of our own, where its ranks can; collective over it."""
    return SmallSum(group, device) if one_sided(spec, device, group) else None


def open_shards(
    spec: RunSpec,
    device: torch.device,
    group: dist.ProcessGroup | None,
    peers: Collective,
    *,
    rows: int,
    heads: int,
) -> SymmetricShards | None:
    """Partials of decode steps by one-sided stores among `peers`, which have `group`.

    `heads`: of all of them together. None where messages carry these: ranks that cannot store into
    each other's memory, or a model of a single layer. Collective over `group`.
    """
    if not one_sided(spec, device, group) or spec.model.layers < LEAST_LAYERS:
        return None
    return SymmetricShards(
        peers,
        lambda num_bytes: Arena(num_bytes, device, group),
        rows=rows,
        layers=spec.model.layers,
        heads=heads // peers.size,
        dim=spec.model.head_dim,
        dtype=getattr(torch, spec.model.dtype),
        device=device,
    )
