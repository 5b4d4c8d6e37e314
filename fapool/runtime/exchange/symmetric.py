"""Links by one-sided stores into memory that the GPUs of a node share, opened at all ranks."""

from __future__ import annotations

import torch
import torch.distributed as dist

from fapool.instrument.recorder import no_span
from fapool.phases import Role
from fapool.runtime.exchange.arena import Arena
from fapool.runtime.exchange.layout import base_places, pool_places
from fapool.runtime.exchange.link import route
from fapool.runtime.exchange.link_spans import LinkSpans
from fapool.runtime.exchange.symmetric_base import SymmetricBaseLink
from fapool.runtime.exchange.symmetric_pool import SymmetricPoolLink
from fapool.runtime.span import Span
from fapool.spec import RunSpec


def open_links(
    spec: RunSpec,
    rank: int,
    *,
    rows: int,
    dtype: torch.dtype,
    device: torch.device,
    group: dist.ProcessGroup,
    channels: int = 1,
    span: Span = no_span,
    name: str = ":link",
    patience: int = 0,
) -> tuple[SymmetricBaseLink | SymmetricPoolLink, ...]:
    """A link per half-batch in flight; collective over `group`, the ranks of the plan.

    A kernel that has polled its flags `patience` times traps; 0: waits for ever.
    """
    at = route(spec, rank)
    assert dist.get_world_size(group) == at.world
    assert len(at.team) < 2 and len(at.answers) == len(at.ends), "teams merge by messages"
    room = max(pool_places(at, rows, dtype)[-1], base_places(at, rows, dtype, at.columns)[-1])
    kind = SymmetricBaseLink if at.role is Role.BASE else SymmetricPoolLink
    names = [f"{name}{number or ''}" for number in range(channels)]
    return tuple(
        kind(
            at,
            Arena(room, device, group),
            rows,
            dtype,
            spans=LinkSpans(span, at, name, dtype.itemsize),
            patience=patience,
        )
        for name in names
    )
