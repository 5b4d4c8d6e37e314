"""The two lanes of a FAPool's prefill, of the kind that its ranks can have."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed as dist

from fapool.phases import Phase, Role
from fapool.pieces import IN_FLIGHT, piece_rows
from fapool.runtime.exchange.copy_lane import CopyLane, Places, Yard
from fapool.runtime.exchange.lane import Lane, LaneSpans
from fapool.runtime.exchange.link import Route, route
from fapool.runtime.exchange.mapped import ALIGNMENT
from fapool.runtime.exchange.message_lane import MessageLane
from fapool.runtime.partial import lse_dtype
from fapool.runtime.span import Span
from fapool.spec import RunSpec

TENSORS = 3
"""Of a parcel, at most."""


class Lanes(NamedTuple):
    """Queries and new keys from base to pool; partials from pool to base, maybe merged before."""

    queries: Lane
    answers: Lane
    held_bytes: int  # for good
    mates: MessageLane | None = None  # partials among pool ranks of a node

    @property
    def peak_bytes(self) -> int:
        """Most that messages held here since `forget_peak`."""
        among = self.mates.peak_bytes if self.mates else 0
        return self.held_bytes + self.queries.peak_bytes + self.answers.peak_bytes + among

    def forget_peak(self) -> None:
        """See `Lane.forget_peak`."""
        self.queries.forget_peak()
        self.answers.forget_peak()
        if self.mates:
            self.mates.forget_peak()

    def drain(self) -> None:
        """See `Lane.drain`."""
        self.queries.drain()
        self.answers.drain()
        if self.mates:
            self.mates.drain()


def open_lanes(
    spec: RunSpec,
    rank: int,
    *,
    device: torch.device,
    groups: tuple[dist.ProcessGroup, dist.ProcessGroup],
    span: Span,
    by_copies: bool,
    least_rows: int = 0,
) -> Lanes:
    """Both lanes at `rank`, for pieces of the spec's steps and of `least_rows`. Collective.

    `groups` carry one direction each: NCCL runs a pair's messages on a group in the order posted,
    and the receive of one piece's answer would hold back another's query. What pool ranks merge
    goes with the answers, which follow it at all of them. `by_copies`: the ranks can write each
    other's memory, and merge nothing.
    """
    there = LaneSpans(span, rank, ":queries", (Phase.SEND_QUERY, Phase.WAIT_QUERY))
    back = LaneSpans(span, rank, ":answers", (Phase.SEND_PARTIALS, Phase.WAIT_PARTIALS))
    if not by_copies:
        for group in groups:
            _connect(group, device)
        queries, answers = (
            MessageLane(group, device, spans)
            for group, spans in zip(groups, (there, back), strict=True)
        )
        phases = Phase.SEND_PARTIALS, Phase.WAIT_PARTIALS
        mates = MessageLane(groups[1], device, LaneSpans(span, rank, ":mates", phases))
        return Lanes(queries, answers, 0, mates)
    rows = max(piece_rows(spec), least_rows)
    routes = [route(spec, other) for other in range(spec.plan.world)]
    yard = Yard(groups[0], device, [places_of(spec, at, rows) for at in routes])
    indices = {end.rank: end.index for end in routes[rank].ends}
    lanes = (CopyLane(yard, indices, spans) for spans in (there, back))
    return Lanes(*lanes, yard.num_bytes)


def _connect(group: dist.ProcessGroup, device: torch.device) -> None:
    """NCCL connects a group when all of it first call, and a pair when both do: all of that now.

    Of a piece some have no part; and whoever posts a receive would be held until its sender sends.
    """
    if dist.get_backend(group) == "nccl":
        one_each = torch.zeros(dist.get_world_size(group), device=device)
        dist.all_to_all_single(torch.empty_like(one_each), one_each, group=group)


def places_of(spec: RunSpec, at: Route, rows: int) -> Places:
    """Room at a rank for pieces of `rows`: queries and all of their keys, or their answers."""
    dtype = getattr(torch, spec.model.dtype)
    row, heads = spec.model.head_dim * dtype.itemsize, spec.model.heads // spec.plan.base
    width = heads * (row + lse_dtype(dtype).itemsize)
    if at.role is Role.POOL:
        width = (heads + 2 * max((len(end.kv_heads) for end in at.ends), default=0)) * row
    return Places(
        slots=1 if spec.plan.overlap == "never" else IN_FLIGHT,
        partners=len(at.ends),
        parcel_bytes=rows * width + TENSORS * ALIGNMENT,
    )
