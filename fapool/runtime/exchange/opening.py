"""Which way a run's exchange takes: one-sided stores where GPUs of a node reach each other, and
messages of a process group anywhere else.
"""

from __future__ import annotations

import logging

import torch
import torch.distributed as dist

from fapool.errors import SpecError
from fapool.runtime.exchange import message_link
from fapool.runtime.exchange.arena import POLLS, Arena, unfit
from fapool.runtime.exchange.collective import Collective
from fapool.runtime.exchange.link import BaseLink, PoolLink
from fapool.runtime.span import Span
from fapool.spec import RunSpec

try:
    from fapool.runtime.exchange import symmetric
    from fapool.runtime.exchange.reduction import SmallSum, num_bytes
    from fapool.runtime.exchange.symmetric_shards import LEAST_LAYERS, SymmetricShards
except ImportError:  # no triton
    symmetric = None

BY_MESSAGES = "partials of a node's ranks are merged by messages (plan.reduction)"

LOG = logging.getLogger("fapool")


class Sharing:
    """Whether ranks of a run store into each other's memory, judged group by group.

    `obstacle`: why messages carry what such stores could; None where nothing stood in the way.
    """

    def __init__(self, spec: RunSpec, device: torch.device) -> None:
        self._spec, self._device = spec, device
        self.obstacle: str | None = None

    def among(self, group: dist.ProcessGroup | None) -> bool:
        """Whether the ranks of `group` do; collective over it.

        Raises:
            SpecError: the spec insists on it and they cannot.
        """
        wanted = self._spec.transport
        if wanted == "messages" or group is None or dist.get_world_size(group) == 1:
            return False
        why = unfit(self._device, group, getattr(torch, self._spec.model.dtype))
        if why and wanted == "symmetric":
            raise SpecError("transport", wanted, f"{why}; choose auto")
        if why and self._device.type == "cuda":
            LOG.warning("messages instead of shared memory: %s", why)
        self.obstacle = self.obstacle or why
        return why is None

    def lends(self, by_all: bool) -> bool:
        """Whether queries and partials go by stores; `by_all`: whether they could."""
        if by_all and self._spec.plan.reduction == "hierarchical":
            self.obstacle = BY_MESSAGES
            return False
        return by_all


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
        return symmetric.open_links(
            spec, rank, **like, group=groups[0], channels=len(groups), patience=POLLS
        )
    return tuple(
        message_link.open_links(spec, rank, **like, group=group, name=f":link{number or ''}")[0]
        for number, group in enumerate(groups)
    )


def open_sum(
    device: torch.device, group: dist.ProcessGroup, boxes: Arena | None = None
) -> SmallSum:
    """Sums over `group` by kernels of our own; collective over it. `boxes`: see `open_boxes`."""
    return SmallSum(group, device, patience=POLLS, boxes=boxes)


def open_boxes(device: torch.device, among: dist.ProcessGroup, ranks: int) -> Arena:
    """Memory for sums over the first `ranks` of `among`; collective over `among`.

    The others share theirs only so that all share memory equally often, and may drop it.
    """
    return Arena(num_bytes(ranks), device, among)


def open_shards(
    spec: RunSpec,
    device: torch.device,
    group: dist.ProcessGroup,
    peers: Collective,
    *,
    rows: int,
    heads: int,
) -> SymmetricShards | None:
    """Partials of decode steps by one-sided stores among `peers`, which have `group`.

    `heads`: of all of them together. None for a model of a single layer, where messages carry
    these. Collective over `group`.
    """
    if spec.model.layers < LEAST_LAYERS:
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
        patience=POLLS,
    )
