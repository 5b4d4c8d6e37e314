"""What a rank says of itself beside its results: machine, kernels, clock, transport, forecast."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist

from fapool.forecast.memory import footprint
from fapool.instrument.clock import Clock
from fapool.instrument.environment import environment
from fapool.runtime.seat import Seat
from fapool.workload import Request


def about(
    seat: Seat, requests: list[Request], clock: Clock, snapshot: str | None = None
) -> dict[str, Any]:
    """A rank's entry in `environment.json`; `snapshot`: see `MemorySnapshot.said`."""
    spec, place, backends = seat.spec, seat.place, seat.backends
    forecast = footprint(spec, requests)[place.rank]
    return environment(seat.device) | {
        "rank": place.rank,
        "role": place.role.value,
        "backends": {"prefill": backends.prefill.name, "decode": backends.decode.name},
        "graphs": spec.graphs and seat.capturable,
        "clock_uncertainty_ns": clock.uncertainty_ns,
        "messages": dist.get_backend(),
        "transport": seat.transport_name,
        "transport_reason": seat.transport_reason,
        "same_host_as_rank_0": clock.same_host,
        "memory_snapshot": snapshot,
        "forecast_bytes": {owner.value: number for owner, number in forecast.items()},
    }
