"""What a lease costs the host: grant and return, on a base rank's books and on a pool rank's.

    python benchmarks/leases.py --out results

64 requests are out on lease in a pool of 16,384 blocks with gaps. One more crosses the threshold
and ends again: its columns are chosen, its blocks reserved and freed, its deal known, as in a
decode step; no keys are moved. Allocations of the device and process groups are counted meanwhile:
there must be none. Prints the table; writes `leases.json` and, on a
GPU, target gpu.h.
"""

from __future__ import annotations

import argparse
import json
import time
from datetime import UTC, datetime
from pathlib import Path
from statistics import median, quantiles

import torch
import torch.distributed as dist
from targets import record

from fapool.instrument.environment import environment
from fapool.instrument.recorder import no_span
from fapool.runtime.kvcache import KVCache
from fapool.runtime.plans.lending import Lending
from fapool.schedule import Segment, Step
from fapool.spec import FAPool, RunSpec, Workload
from fapool.workload import Request

OUT, BLOCKS, REPEATS, TARGET_US = 64, 16_384, 2000, 50.0
CONTEXT = 16_384


def books(device: torch.device) -> tuple[RunSpec, list[Request], Lending, KVCache]:
    """A pool rank's lending and cache with `OUT` requests leased, every other one gone again."""
    work = Workload(batch=2 * OUT + 1, context=CONTEXT, output=64)
    plan = FAPool(base=1, pool=3, threshold=4096)
    spec = RunSpec(model="paper-4l", plan=plan, workload=work)
    requests = [Request(id=i, context=CONTEXT, output=64) for i in range(2 * OUT + 1)]
    cache = KVCache(
        layers=range(1), blocks=BLOCKS, block_tokens=256, kv_heads=1, head_dim=16,
        dtype=torch.bfloat16, device=device,
    )  # fmt: skip
    lending = Lending(spec, requests, no_span)
    others = tuple(Segment(r.id, r.context, 1, True) for r in requests[:-1])
    for lease in lending.grant(Step(0, "decode", others)):
        cache.reserve(lease.request, blocks_here(lending, spec, lease.request))
    gone = tuple(r.id for r in requests[:-1:2])
    for lease in lending.end(Step(0, "decode", others, finished=gone)):
        cache.free(lease.request)
    return spec, requests, lending, cache


def blocks_here(lending: Lending, spec: RunSpec, request: int) -> int:
    """Blocks that column 0 sets aside for a request."""
    total = -(-lending.cached(request) // spec.block)
    return lending.deal(request).blocks(total, 0)


def measure(device: torch.device) -> dict:
    """Microseconds of a grant and its return; what was allocated meanwhile."""
    spec, requests, lending, cache = books(device)
    last = requests[-1]
    step = Step(1, "decode", (Segment(last.id, last.context, 1, True),), finished=(last.id,))
    before, groups, took = allocations(device), len(dist.distributed_c10d._world.pg_map), []
    for _ in range(REPEATS):
        start = time.perf_counter_ns()
        for lease in lending.grant(step):
            cache.reserve(lease.request, blocks_here(lending, spec, lease.request))
        for lease in lending.end(step):
            cache.free(lease.request)
        took.append((time.perf_counter_ns() - start) / 1e3)
    tenths = quantiles(took, n=10)
    return {
        "median_us": round(median(took), 2),
        "p90_us": round(tenths[-1], 2),
        "device_allocations": allocations(device) - before,
        "new_process_groups": len(dist.distributed_c10d._world.pg_map) - groups,
    }


def allocations(device: torch.device) -> int:
    """Allocations that torch's CUDA allocator has served; 0 on a CPU."""
    if device.type != "cuda":
        return 0
    return torch.cuda.memory_stats(device)["allocation.all.allocated"]


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    found, about = measure(device), environment(device)
    result = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "environment": about} | found
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "leases.json").write_text(json.dumps(result, indent=2) + "\n")
    holds = found["p90_us"] <= TARGET_US and not (
        found["device_allocations"] or found["new_process_groups"]
    )
    if device.type == "cuda":
        record(
            "gpu.h",
            value=found["median_us"],
            target=f"<= {TARGET_US} us; no allocation, no communicator",
            holds=holds,
            what="grant and return of a lease, host time in us, median of 2000",
            machine=torch.cuda.get_device_name(device),
        )
    print("\n".join(f"{name:22}{value}" for name, value in found.items()))


if __name__ == "__main__":
    main()
