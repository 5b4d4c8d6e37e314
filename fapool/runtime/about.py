"""What a rank says of itself beside its results: machine, kernels, clock, transport, forecast."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist

from fapool.forecast.memory import footprint
from fapool.instrument.alignment import Line
from fapool.instrument.clock import HostClock
from fapool.instrument.clocks import about_clocks
from fapool.instrument.environment import environment
from fapool.runtime.seat import Seat
from fapool.workload import Request


def about(
    seat: Seat,
    requests: list[Request],
    clock: HostClock,
    *,
    profiled: Line | None,
    snapshot: str | None,
) -> dict[str, Any]:
    """A rank's entry in `environment.json`.

    `profiled`: see `ProfilerWindow.line`; `snapshot`: see `MemorySnapshot.said`.
    """
    spec, place, backends = seat.spec, seat.place, seat.backends
    forecast = footprint(spec, requests)[place.rank]
    return environment(seat.device) | {
        "rank": place.rank,
        "role": place.role.value,
        "backends": {"prefill": backends.prefill.name, "decode": backends.decode.name},
        "graphs": spec.graphs and seat.capturable,
        "clock": about_clocks(clock, seat.recorder, profiled),
        "messages": dist.get_backend(),
        "transport": seat.transport_name,
        "transport_reason": seat.transport_reason,
        "memory_snapshot": snapshot,
        "forecast_bytes": {owner.value: number for owner, number in forecast.items()},
    }
