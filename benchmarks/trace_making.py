"""Made-up traces of ranks that train: Kineto's form, kernels and collectives that fit together.

On each rank the host launches kernels on one stream, every tenth a collective on another, and waits
for the device at the end of a step. A collective ends on all ranks at once, after its last
participant has begun; every fifth holds up computation, the others are hidden as far as they go.
"""

from __future__ import annotations

import gzip
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

BASE_NS, FIRST_NS = 1_790_857_026_000_000_000, 4_496_842_500_000_000
EVENTS_PER_KERNEL, STEPS = 6, 20
FIRST_CORRELATION = 1_865_057  # of a process that has run for a while
COMPUTE_STREAM, COLLECTIVE_STREAM, PID = 7, 20, 590
COLLECTIVES = ("allreduce", "_allgather_base", "_reduce_scatter_base")


@dataclass
class Rank:
    """Where one rank's host and its two streams have got to, in ns after the first event."""

    host_ns: int = 0
    compute_ns: int = 0
    collective_ns: int = 0


@dataclass(frozen=True)
class Launch:
    """One kernel: when its operator began and how long it ran on the device."""

    number: int
    host_ns: int
    start_ns: int
    end_ns: int
    kind: str  # "kernel", "memcpy", or a collective's name
    sequence: int


def simulate(
    ranks: int, kernels: int, seed: int
) -> tuple[list[list[Launch]], list[list[tuple[int, int]]]]:
    """(launches per rank, host's steps per rank as [start, end))."""
    rng = random.Random(seed)
    states = [Rank(host_ns=rng.randrange(50_000)) for _ in range(ranks)]
    launches: list[list[Launch]] = [[] for _ in states]
    steps: list[list[tuple[int, int]]] = [[] for _ in states]
    began = [state.host_ns for state in states]
    per_step = max(1, -(-kernels // STEPS))
    for number in range(kernels):
        if number % 10 == 9:
            _collective(states, launches, number, rng)
        else:
            for rank, state in enumerate(states):
                launches[rank].append(_kernel(state, number, rng))
        if (number + 1) % per_step == 0 or number + 1 == kernels:
            for rank, state in enumerate(states):
                state.host_ns = max(state.host_ns, state.compute_ns, state.collective_ns) + 20_000
                steps[rank].append((began[rank], state.host_ns))
                began[rank] = state.host_ns = state.host_ns + rng.randrange(10_000)
    return launches, steps


def _kernel(state: Rank, number: int, rng: random.Random) -> Launch:
    host_ns = state.host_ns
    state.host_ns += rng.randrange(4_000, 9_000)
    start_ns = max(state.compute_ns + rng.randrange(300, 1200), state.host_ns + 2_000)
    state.compute_ns = start_ns + rng.randrange(1_500, 12_000)
    kind = "memcpy" if number % 50 == 25 else "kernel"
    return Launch(number, host_ns, start_ns, state.compute_ns, kind, -1)


def _collective(
    states: list[Rank], launches: list[list[Launch]], number: int, rng: random.Random
) -> None:
    hosts, starts = [], []
    for state in states:
        hosts.append(state.host_ns)
        state.host_ns += rng.randrange(15_000, 30_000)
        ready_ns = max(state.collective_ns, state.compute_ns, state.host_ns)
        starts.append(ready_ns + rng.randrange(1_000, 3_000))
    end_ns = max(starts) + rng.randrange(10_000, 60_000)
    sequence = number // 10
    name = COLLECTIVES[sequence % len(COLLECTIVES)]
    for rank, state in enumerate(states):
        own_end_ns = end_ns + rng.randrange(500)
        state.collective_ns = own_end_ns
        if sequence % 5 == 4:
            state.compute_ns = max(state.compute_ns, own_end_ns)
        launches[rank].append(Launch(number, hosts[rank], starts[rank], own_end_ns, name, sequence))


def write(folder: Path, *, ranks: int, events: int, names: list[str], seed: int = 0) -> None:
    """Write `rank<r>.<n>.pt.trace.json.gz` with about `events` events each; `names` of kernels."""
    launches, steps = simulate(ranks, -(-events // EVENTS_PER_KERNEL), seed)
    for rank in range(ranks):
        rng = random.Random(f"{seed} {rank}")
        path = folder / f"rank{rank}.{BASE_NS}.pt.trace.json.gz"
        with gzip.open(path, "wt", compresslevel=2) as file:
            file.write(_head(rank, ranks))
            parts = (_step(number, *times) for number, times in enumerate(steps[rank]))
            file.write(",\n".join(parts))
            for launch in launches[rank]:
                file.write(",\n")
                file.write(",\n".join(_events(launch, rank, ranks, rng.choice(names))))
            file.write(f'\n  ],\n  "traceName": "rank{rank}.json"\n}}\n')


def _head(rank: int, ranks: int) -> str:
    members = list(range(ranks))
    groups = (
        f'[{{"pg_name": "0", "pg_desc": "default_pg", "pg_size": {ranks}, "ranks": {members}}}]'
    )
    info = f'{{"backend": "nccl", "rank": {rank}, "world_size": {ranks}, "pg_config": {groups}}}'
    return (
        '{\n  "schemaVersion": 1,\n  "deviceProperties": [\n  ],\n'
        f'  "distributedInfo": {info},\n  "displayTimeUnit": "ms",\n'
        f'  "baseTimeNanoseconds": {BASE_NS},\n  "traceEvents": [\n'
    )


def _us(ns: int) -> str:
    return f"{ns // 1000}.{ns % 1000:03d}"


def _slice(
    category: str, name: str, place: tuple[int, int], start_ns: int, end_ns: int, args: str
) -> str:
    pid, tid = place
    return (
        f'  {{\n    "ph": "X", "cat": "{category}", "name": "{name}", "pid": {pid}, "tid": {tid},\n'
        f'    "ts": {_us(FIRST_NS + start_ns)}, "dur": {_us(end_ns - start_ns)},\n'
        f'    "args": {{\n      {args}\n    }}\n  }}'
    )


def _flow(phase: str, number: int, place: tuple[int, int], time_ns: int) -> str:
    end = ', "bp": "e"' if phase == "f" else ""
    return (
        f'  {{\n    "ph": "{phase}", "id": {number}, "pid": {place[0]}, "tid": {place[1]}, '
        f'"ts": {_us(FIRST_NS + time_ns)},\n    "cat": "ac2g", "name": "ac2g"{end}\n  }}'
    )


def _step(number: int, start_ns: int, end_ns: int) -> str:
    args = f'"External id": {number}, "Record function id": 0, "Ev Idx": {number}'
    return _slice("user_annotation", f"ProfilerStep#{number}", (PID, PID), start_ns, end_ns, args)


def _events(launch: Launch, rank: int, ranks: int, name: str) -> Iterator[str]:
    """The operators of a launch, the launch, its arrow and the kernel."""
    at_ns, external, host = launch.host_ns, 1000 + 2 * launch.number, (PID, PID)
    collective = launch.kind not in ("kernel", "memcpy")
    said = _said(launch, ranks) if collective else ""
    outer, inner = ("c10d::work", "record_param_comms") if collective else ("aten::add", "aten::to")
    shapes = '"Input type": ["c10::BFloat16", "Scalar"], "Input Dims": [[4096, 1024], []]'
    both = f'"Record function id": 0, "Ev Idx": {2 * launch.number}, {shapes}'
    yield _slice("cpu_op", outer, host, at_ns, at_ns + 3900, f'"External id": {external}, {both}')
    args = f'"External id": {external + 1}, {said}{both}'
    yield _slice("cpu_op", inner, host, at_ns + 200, at_ns + 3800, args)
    correlation = FIRST_CORRELATION + launch.number
    ids = f'"External id": {external + 1}, "correlation": {correlation}'
    call = "cudaMemcpyAsync" if launch.kind == "memcpy" else "cudaLaunchKernel"
    yield _slice("cuda_runtime", call, host, at_ns + 900, at_ns + 3500, f'{ids}, "cbid": 211')
    stream = COLLECTIVE_STREAM if collective else COMPUTE_STREAM
    yield _flow("s", correlation, host, at_ns + 900)
    yield _flow("f", correlation, (rank, stream), launch.start_ns)
    where = f'{ids}, "device": {rank}, "context": 1, "stream": {stream}'
    times = launch.start_ns, launch.end_ns
    if launch.kind == "memcpy":
        copy = f'{where}, "bytes": 65536, "memory bandwidth (GB/s)": 43.1'
        yield _slice("gpu_memcpy", "Memcpy DtoD (Device -> Device)", (rank, stream), *times, copy)
        return
    kernel = f"ncclDevKernel_{launch.kind}_RING_LL(ncclDevKernelArgsStorage<4096ul>)"
    shape = '"registers per thread": 32, "grid": [2048, 2, 1], "block": [256, 1, 1]'
    args = f"{said}{where}, {shape}"
    yield _slice("kernel", kernel if collective else name, (rank, stream), *times, args)


def _said(launch: Launch, ranks: int) -> str:
    return (
        f'"Collective name": "{launch.kind}", "dtype": "BFloat16", "In msg nelems": 4194304, '
        f'"Out msg nelems": 4194304, "Group size": {ranks}, "Process Group Name": "0", '
        f'"Process Group Description": "default_pg", '
        f'"Process Group Ranks": "{list(range(ranks))}", "Seq": {launch.sequence}, '
    )
