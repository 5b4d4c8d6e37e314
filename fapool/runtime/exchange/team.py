"""Partials of the pool ranks of a node, merged at the first of them before it answers.

    mate                                   first of the team
    merged(l, part)   --- out, lse --->    merged(l, part) -> the partial over what all of them have

    shapes:  B rows, Hg heads of a head group, D head dim

One message of fixed size from every mate and layer, so that with NCCL a step can be captured.
"""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor

from fapool.phases import Phase
from fapool.runtime.exchange.link import Route
from fapool.runtime.exchange.link_spans import LinkSpans
from fapool.runtime.exchange.mail import Mail, part_in, part_width
from fapool.runtime.partial import Partial, merge


class Team:
    """A pool rank's part in it; alone in a team, it keeps its partial as it is."""

    def __init__(
        self, at: Route, group: dist.ProcessGroup, rows: int, like: Tensor, spans: LinkSpans
    ) -> None:
        self._spans, self._rows = spans, rows
        self._shape = at.group_heads, at.head_dim
        self._width = part_width(at.group_heads, at.head_dim, like.dtype)
        self._leads, self._lead = at.team[0] == at.rank, list(at.team[:1])
        self._mates = list(at.team[1:]) if self._leads else []
        messages = len(self._mates) if self._leads else 1
        self._mail = Mail(group, [rows * self._width] * messages, like)

    @property
    def held_bytes(self) -> int:
        """Of the device's memory, for good."""
        return self._mail.num_bytes

    def expect(self, layer: int, rows: int) -> None:
        """Once a layer, of a step of `rows` rows, before `merged`."""
        self._rows = rows
        if self._mates:
            with self._spans.within(Phase.POST, layer):
                self._mail.receive(self._mates, [rows * self._width] * len(self._mates))

    def merged(self, layer: int, part: Partial) -> Partial | None:
        """Attention over what all of the team have; None at those that gave theirs away.

        `part`: out [B, Hg, D], lse [B, Hg], over what lies here.
        """
        shape, size = (self._rows, *self._shape), self._rows * self._width
        if not self._leads:
            with self._spans.within(Phase.PACK, layer):
                place = part_in(self._mail.buffers[0], shape)
                place.out.copy_(part.out)
                place.lse.copy_(part.lse)
            with self._spans.gives(layer, size):
                self._mail.send(self._lead, [size])
                self._mail.wait()  # not long: it is expected as soon as there are queries
            return None
        if not self._mates:
            return part
        with self._spans.gathers(layer, size):
            self._mail.wait()
        with self._spans.within(Phase.MERGE, layer):
            return merge([part, *(part_in(message, shape) for message in self._mail.buffers)])
