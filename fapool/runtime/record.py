"""What a rank remembers of its requests, as the columns of a table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fapool.runtime.engine import Played
from fapool.workload import Request


def request_columns(
    timings: Sequence[tuple[int, Played]],
    requests: Sequence[Request],
    settle: Callable[[int], int] = lambda time_ns: time_ns,
) -> dict[str, list[Any]]:
    """(repeat, what came out of it) of every pass -> the columns of `fapool.phases.REQUESTS`.

    `settle` (`HostClock.settle`) is for this rank's clock: admissions are rank 0's as they come.
    """
    by_id = {request.id: request for request in requests}
    rows = [
        (repeat, by_id[request], played.timings[request])
        for repeat, played in timings
        for request in played.finished
    ]
    return {
        "repeat": [repeat for repeat, _, _ in rows],
        "request": [request.id for _, request, _ in rows],
        "context": [request.context for _, request, _ in rows],
        "output": [request.output for _, request, _ in rows],
        "admitted_ns": [timing.admitted_ns for *_, timing in rows],
        "first_token_ns": [settle(timing.first_ns) for *_, timing in rows],
        "last_token_ns": [settle(timing.last_ns) for *_, timing in rows],
        "leased_at": [timing.leased_at for *_, timing in rows],
    }
