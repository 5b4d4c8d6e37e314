"""Sums and gathers among the ranks that share a layer: no-ops where there is one."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from fapool.phases import Phase
from fapool.runtime.span import Span


class Collective:
    """The collectives of one group of ranks; counts them so that their spans can be joined."""

    def __init__(self, group: dist.ProcessGroup | None, peers: tuple[int, ...], span: Span) -> None:
        assert group is not None or len(peers) == 1
        self._group, self._peers, self._span = group, peers, span
        self._by_host = group is not None and dist.get_backend(group) == "gloo"
        self._channel = "+".join(map(str, peers))
        self._count = 0

    @property
    def size(self) -> int:
        """Ranks that take part."""
        return len(self._peers)

    def sum(self, x: Tensor, *, layer: int = -1) -> Tensor:
        """The sum of every rank's `x`, in place."""
        if self.size > 1:
            with self._labelled(Phase.ALL_REDUCE, x, layer):
                if not (self._by_host and x.is_cuda):
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
        with self._labelled(Phase.GATHER_TOKENS, x, -1):
            own = x.cpu() if self._by_host else x
            found = [torch.empty_like(own) for _ in self._peers]
            dist.all_gather(found, own, group=self._group)
            return torch.stack(found).to(x.device)

    def _labelled(self, phase: Phase, x: Tensor, layer: int):
        self._count += 1
        return self._span(
            phase,
            layer=layer,
            channel=self._channel,
            sequence=self._count - 1,
            num_bytes=x.nbytes,
        )
