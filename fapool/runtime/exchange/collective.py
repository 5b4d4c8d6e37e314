"""Sums, gathers and exchanges among ranks that share a layer or its keys; no-ops for one."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from fapool.phases import Phase
from fapool.runtime.exchange.process_group import Posted
from fapool.runtime.span import Span


class Collective:
    """The collectives of one group of ranks; counts them so that their spans can be joined.

    `name` tells the channels of two collectives among the same ranks apart.
    """

    def __init__(
        self,
        group: dist.ProcessGroup | None,
        peers: tuple[int, ...],
        span: Span,
        name: str = "",
        small: Any = None,
    ) -> None:
        """`small`: what sums on this group without it, see `reduction.SmallSum`."""
        assert group is not None or len(peers) == 1
        self._group, self._peers, self._span = group, peers, span
        self._by_host = group is not None and dist.get_backend(group) == "gloo"
        self._channel = "+".join(map(str, peers)) + name
        self._rank = 0 if group is None else dist.get_rank(group)
        self._count, self._small = 0, small

    @property
    def size(self) -> int:
        """Ranks that take part."""
        return len(self._peers)

    @property
    def held_bytes(self) -> int:
        """Of the device's memory, for good."""
        return self._small.held_bytes if self._small is not None else 0

    def sum(self, x: Tensor, *, layer: int = -1) -> Tensor:
        """The sum of every rank's `x`, in place."""
        if self.size > 1:
            with self._span(**self._labels(Phase.ALL_REDUCE, x.nbytes, layer)):
                if self._small is not None:
                    self._small.sum(x)
                elif not (self._by_host and x.is_cuda):
                    dist.all_reduce(x, group=self._group)
                else:
                    host = x.cpu()
                    dist.all_reduce(host, group=self._group)
                    x.copy_(host)
        return x

    def gather(self, x: Tensor) -> Tensor:
        """Every rank's `x` (equal shapes), stacked in order of rank: [size, *x.shape]."""
        if self.size == 1:
            return x[None]
        with self._span(**self._labels(Phase.GATHER_TOKENS, x.nbytes)):
            if self._small is not None and x.dtype == torch.float32:
                slots = x.new_zeros(self.size, *x.shape)
                if self._small.fits(slots):
                    slots[self._rank] = x  # x + 0 is x: a sum of slots is a gather
                    return self._small.sum(slots)
            own = x.cpu() if self._by_host else x
            found = [torch.empty_like(own) for _ in self._peers]
            dist.all_gather(found, own, group=self._group)
            return torch.stack(found).to(x.device)

    def all_to_all(self, x: Tensor, *, layer: int = -1) -> Tensor:
        """Piece i of `x` [size, ...] goes to the i-th rank; piece i of the result is from there."""
        if self.size == 1:
            return x
        with self._span(**self._labels(Phase.ALL_TO_ALL, _leaving(x), layer)):
            own = x.cpu() if self._by_host else x
            found = torch.empty_like(own)
            dist.all_to_all_single(found, own, group=self._group)
            return found.to(x.device)

    def exchanging(self, num_bytes: int, *, layer: int) -> AbstractContextManager:
        """The span of an all-to-all that is done by other means; `num_bytes` leave the rank."""
        return self._span(**self._labels(Phase.ALL_TO_ALL, num_bytes, layer))

    def post_all_to_all(self, x: Tensor, *, layer: int = -1) -> Posted:
        """`all_to_all` under way beside what is computed next; takes two ranks at least."""
        own = x.cpu() if self._by_host else x
        labels = self._labels(Phase.ALL_TO_ALL, _leaving(x), layer)
        # The rank arrives here, not where it waits.
        with self._span(**labels | {"phase": Phase.POST, "num_bytes": 0}):
            found = torch.empty_like(own)
            work = dist.all_to_all_single(found, own, group=self._group, async_op=True)
        return Posted(work, found, labels, self._span, x.device)

    def _labels(self, phase: Phase, num_bytes: int, layer: int = -1) -> dict:
        self._count += 1
        return {
            "phase": phase,
            "layer": layer,
            "channel": self._channel,
            "sequence": self._count - 1,
            "num_bytes": num_bytes,
        }


def _leaving(x: Tensor) -> int:
    """Bytes of an exchange that leave the rank: its own piece stays."""
    return x.nbytes - x[0].nbytes
