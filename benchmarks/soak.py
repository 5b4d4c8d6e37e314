"""Ten thousand decode steps: no step-to-step drift in memory, and where the keys lie at the end.

    torchrun --nproc-per-node 4 benchmarks/soak.py --out results      # or 2

FAPool(1,n-1) on the paper's 4-layer model, four requests that grow to 16 K tokens, all of them on
lease. What torch's allocator and the whole device hold is read fifty times a second. Writes
`soak-<n>gpu.json` and target gpu.i; prints the table last.
"""

from __future__ import annotations

import argparse
import json
import os
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
from targets import record

from fapool.cli.run import run_spec
from fapool.phases import Owner
from fapool.spec import FAPool, RunSpec, Workload
from fapool.store import Run, Store

STEPS, LENGTH, BATCH = 10_000, 16_384, 4
SETTLED = 200
"""Decode steps after which everything that is made once has been made."""

MOST_OVER = 0.02
"""Largest share by which reserved KV bytes may exceed tokens x bytes of a token."""


def spec_of(ranks: int, steps: int) -> RunSpec:
    """The run."""
    return RunSpec(
        name="soak",
        model="paper-4l",
        plan=FAPool(base=1, pool=ranks - 1, threshold=2048),
        workload=Workload(batch=BATCH, context=LENGTH - steps, output=steps),
        device="cuda",
        warmup=0,
    )


def drift(run: Run) -> dict:
    """Bytes that allocator and device grew by after the settled step, on the rank where most.

    The busiest moment after settling counts, so that a peak in between is seen, too.
    """
    memory, steps = run.table("memory"), run.table("steps")
    first = steps[steps["kind"] == "decode"]["step"].min() + SETTLED
    late = memory[memory["step"] >= first]
    grown = {}
    for owner in (Owner.ALLOCATOR, Owner.DEVICE):
        rows = late[late["owner"] == owner].sort_values("step")
        spans = rows.groupby("rank")["bytes"].agg(lambda b: int(b.max() - b.iloc[0]))
        grown[f"{owner}_grown_bytes"] = int(spans.max()) if len(spans) else None
    return grown


def spread(run: Run) -> dict:
    """Reserved and used KV bytes at the last step, over all ranks and on each pool rank."""
    spec, memory = run.spec, run.table("memory")
    last = memory[memory["step"] == memory["step"].max()]
    held = {owner: _by_rank(last, owner) for owner in (Owner.KV, Owner.KV_USED)}
    tokens = BATCH * (LENGTH - 1)
    pool = [used for rank, used in held[Owner.KV_USED].items() if rank >= spec.plan.base]
    block = spec.block * spec.model.kv_bytes_per_token
    return {
        "tokens": tokens,
        "kv_bytes": sum(held[Owner.KV].values()),
        "over_tokens": sum(held[Owner.KV].values()) / (tokens * spec.model.kv_bytes_per_token) - 1,
        "most_uneven_blocks": (max(pool) - min(pool)) / block / BATCH,
    }


def _by_rank(rows: pd.DataFrame, owner: Owner) -> dict[int, int]:
    rows = rows[rows["owner"] == owner]
    return dict(zip(rows["rank"], rows["bytes"], strict=True))


def main() -> None:
    """Run, write, print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=STEPS)
    options, ranks = parser.parse_args(), int(os.environ["WORLD_SIZE"])
    path = run_spec(spec_of(ranks, options.steps), Store(options.out / "profiles"))
    if path is None:
        return
    run = Run(path)
    found = drift(run) | spread(run)
    device = run.environment["ranks"][0]
    result = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "environment": device}
    result |= {"gpus": ranks, "steps": options.steps} | found
    (options.out / f"soak-{ranks}gpu.json").write_text(json.dumps(result, indent=2) + "\n")
    record(
        "gpu.i",
        value=round(found["over_tokens"], 5),
        target=f"|.| <= {MOST_OVER}, pool ranks within one block of each request",
        holds=abs(found["over_tokens"]) <= MOST_OVER and found["most_uneven_blocks"] <= 1,
        what=f"KV bytes over tokens x 64 KiB, less one; {ranks} GPUs, {options.steps} steps",
        machine=str(device["gpus"][0]["name"]),
    )
    print("\n".join(f"{name:28}{value}" for name, value in found.items()))


if __name__ == "__main__":
    main()
