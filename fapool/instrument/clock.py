"""One clock for all ranks: how far this rank's host clock lies from Unix time on rank 0.

Ranks of one host share CLOCK_MONOTONIC and so agree exactly; others ask rank 0 for its time over
and over, and believe the quickest answer.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist

ROUNDS = 20


@dataclass(frozen=True, kw_only=True)
class Clock:
    """`time.perf_counter_ns() + unix_offset_ns` is Unix time in nanoseconds on rank 0's clock.

    `uncertainty_ns` bounds the error against rank 0: half the quickest round trip, 0 on its host.
    """

    unix_offset_ns: int
    uncertainty_ns: int
    same_host: bool


def offset_to_rank0(group: dist.ProcessGroup | None = None) -> Clock:
    """Align this rank's clock with rank 0's; a collective that takes a few ms per remote rank.

    Args:
        group: all ranks, able to move CPU tensors (gloo); None is the default group.
    """
    rank, world = dist.get_rank(group), dist.get_world_size(group)
    mine = torch.tensor([clock_name(), unix_offset_ns()], dtype=torch.int64)
    all_ranks = [torch.empty_like(mine) for _ in range(world)]
    dist.all_gather(all_ranks, mine, group=group)
    names = [int(values[0]) for values in all_ranks]
    base = int(all_ranks[0][1])
    offset, uncertainty = 0, 0
    for remote in (r for r in range(world) if names[r] != names[0]):  # in turn: no queueing
        if rank == 0:
            _answer(remote, group)
        elif rank == remote:
            offset, uncertainty = estimate_offset(lambda: _ask(group))
    return Clock(
        unix_offset_ns=base + offset,
        uncertainty_ns=uncertainty,
        same_host=names[rank] == names[0],
    )


def estimate_offset(
    exchange: Callable[[], int],
    clock: Callable[[], int] = time.perf_counter_ns,
    rounds: int = ROUNDS,
) -> tuple[int, int]:
    """What to add to `clock` to get the far clock that `exchange` reads, and that sum's error.

    The far clock was read somewhere between the two readings around `exchange`: its middle is off
    by at most half of the round trip, so the shortest of `rounds` decides. Nanoseconds.
    """
    best: tuple[int, int] | None = None
    for _ in range(rounds + 1):
        before = clock()
        far = exchange()
        after = clock()
        trip = after - before
        if best is None or trip < best[1]:
            best = far - (before + after) // 2, trip
    assert best is not None
    return best[0], (best[1] + 1) // 2


def unix_offset_ns() -> int:
    """What to add to this host's `perf_counter_ns` to get its Unix time."""
    return estimate_offset(time.time_ns)[0]


def clock_name() -> int:
    """The same for all processes that share CLOCK_MONOTONIC, as a signed 64-bit number."""
    text = Path("/proc/sys/kernel/random/boot_id").read_text()
    namespace = Path("/proc/self/timens_offsets")  # a container may shift its own clock
    if namespace.exists():
        text += namespace.read_text()
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big", signed=True)


def _ask(group: dist.ProcessGroup | None) -> int:
    message = torch.zeros(1, dtype=torch.int64)
    dist.send(message, 0, group)
    dist.recv(message, 0, group)
    return int(message)


def _answer(remote: int, group: dist.ProcessGroup | None) -> None:
    message = torch.zeros(1, dtype=torch.int64)
    for _ in range(ROUNDS + 1):
        dist.recv(message, remote, group)
        message[0] = time.perf_counter_ns()
        dist.send(message, remote, group)
