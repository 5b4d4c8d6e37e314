"""The two lanes of a FAPool's prefill, of the kind that its ranks can have."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed as dist

from fapool.forecast.overlap import IN_FLIGHT, piece_rows
from fapool.phases import Phase
from fapool.runtime.exchange.copy_lane import ALIGNMENT, CopyLane, Yard
from fapool.runtime.exchange.lane import Lane, LaneSpans
from fapool.runtime.exchange.link import route
from fapool.runtime.exchange.message_lane import MessageLane
from fapool.runtime.partial import lse_dtype
from fapool.runtime.span import Span
from fapool.spec import RunSpec
from fapool.topology import place


class Lanes(NamedTuple):
    """Queries and new keys from base to pool; partials from pool to base."""

    queries: Lane
    answers: Lane

    def drain(self) -> None:
        """See `Lane.drain`."""
        for lane in self:
            lane.drain()


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
    and the receive of one piece's answer would hold back another's query. `by_copies`: the ranks
    can write each other's memory.
    """
    there = LaneSpans(span, rank, ":queries", (Phase.SEND_QUERY, Phase.WAIT_QUERY))
    back = LaneSpans(span, rank, ":answers", (Phase.SEND_PARTIALS, Phase.WAIT_PARTIALS))
    if not by_copies:
        lanes = (MessageLane(g, device, s) for g, s in zip(groups, (there, back), strict=True))
        return Lanes(*lanes)
    routes = [route(spec, other) for other in range(spec.plan.world)]
    yard = Yard(
        groups[0],
        device,
        slots=IN_FLIGHT,
        partners=max(len(at.ends) for at in routes),
        parcel_bytes=parcel_bytes(spec, max(piece_rows(spec), least_rows)),
    )
    indices = {end.rank: end.index for end in routes[rank].ends}
    return Lanes(CopyLane(yard, indices, there), CopyLane(yard, indices, back))


def parcel_bytes(spec: RunSpec, rows: int) -> int:
    """The largest parcel for a piece of `rows`: its queries, and all of its keys to one column."""
    dtype = getattr(torch, spec.model.dtype)
    at = place(spec, 0)
    row = spec.model.head_dim * dtype.itemsize
    query = (len(at.heads) + 2 * len(at.kv_heads)) * row
    answer = len(at.heads) * (row + lse_dtype(dtype).itemsize)
    return rows * max(query, answer) + 3 * ALIGNMENT
