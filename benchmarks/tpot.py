"""TPOT of FA Pool and static layouts on GPUs, each checked first: the base line.

    torchrun --nproc-per-node 4 benchmarks/tpot.py --out results      # or 2, with smaller layouts

Decode steps of the paper's 4-layer model in bf16, every layout on the same number of GPUs. A row
says the median of the decode steps on rank 0, their 10th and 90th percentile, whether spans were
recorded (each costs host time, and eager decode is bound by the host), and beside it the floor:
weights and keys that must be read in a step, over the best measured bandwidth of an H200
(4.45 TB/s). Writes `tpot-<n>gpu.json`; prints the table last.
"""

from __future__ import annotations

import argparse
import json
import os
from datetime import UTC, datetime
from pathlib import Path

from fapool.cli.run import run_spec
from fapool.forecast.memory import weight_bytes
from fapool.phases import Role
from fapool.spec import Capture, FAPool, Model, RunSpec, Static, Workload
from fapool.store import Run, Store
from fapool.topology import place

BANDWIDTH = 4.45e12  # bytes/s
PLANS = {
    2: (Static(tp=2), FAPool(base=1, pool=1, threshold=2048)),
    4: (
        Static(tp=4),
        FAPool(base=1, pool=3, threshold=2048),
        FAPool(base=2, pool=2, threshold=2048),
    ),
}
GRID = ((1, 4096), (1, 16384), (64, 4096), (64, 16384))  # batch, context


def specs(ranks: int, output: int) -> list[RunSpec]:
    """Every layout at every point; the first run of each layout also writes traces."""
    return [
        RunSpec(
            name=f"b{batch}-{context // 1024}k",
            model="paper-4l",
            plan=plan,
            workload=Workload(batch=batch, context=context, output=output),
            device="cuda",
            warmup=1 if batch == 1 else 0,
            repeats=3 if batch == 1 else 1,
            capture=Capture(
                spans=spans, profile_steps=4 if spans and (batch, context) == (64, 4096) else 0
            ),
        )
        for batch, context in GRID
        for plan in PLANS[ranks]
        for spans in (False, True)
    ]


def floor_ms(spec: RunSpec) -> float:
    """Bytes of the busiest base rank, then of the busiest pool rank, over the bandwidth."""
    work, model = spec.workload, spec.model
    kv = work.batch * work.context * model.kv_bytes_per_token
    total = 0.0
    for role in Role:
        ranks = [at for r in range(spec.plan.world) if (at := place(spec, r)).role is role]
        holds_kv = role is (Role.POOL if isinstance(spec.plan, FAPool) else Role.BASE)
        share = kv / len(ranks) if holds_kv and ranks else 0
        total += max((weight_bytes(model, at) for at in ranks), default=0) + share
    return total / BANDWIDTH * 1e3


def row(run: Run) -> dict:
    """One line of the table."""
    spec, steps = run.spec, run.table("steps")
    decode = steps[(steps["rank"] == 0) & (steps["kind"] == "decode")]
    took = (decode["end_ns"] - decode["start_ns"]) / 1e6
    first = run.environment["ranks"][-1]
    return {
        "plan": str(spec.plan),
        "batch": spec.workload.batch,
        "context": spec.workload.context,
        "spans": spec.capture.spans,
        "step_ms": round(float(took.median()), 4),
        "p10_ms": round(float(took.quantile(0.1)), 4),
        "p90_ms": round(float(took.quantile(0.9)), 4),
        "floor_ms": round(floor_ms(spec), 4),
        "steps": len(decode),
        "backends": first["backends"],
        "check_error": run.correctness["error"],
        "check_passed": run.correctness["passed"],
    }


def main() -> None:
    """Run all, write the JSON, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--output", type=int, default=48, help="tokens generated per request")
    options = parser.parse_args()
    ranks = int(os.environ["WORLD_SIZE"])
    store = Store(options.out / "profiles")
    found, environment = [], {}
    for spec in specs(ranks, options.output):
        path = run_spec(spec, store)
        if path is not None:
            run = Run(path)
            found.append(row(run))
            environment = run.environment["ranks"][0]
            print(json.dumps(found[-1]), flush=True)
    if not found:
        return
    model = Model.preset("paper-4l").model_dump()
    result = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "gpus": ranks,
        "environment": environment,
        "model": model,
        "rows": found,
    }
    target = options.out / f"tpot-{ranks}gpu.json"
    target.write_text(json.dumps(result, indent=2) + "\n")
    print(
        f"\n{'plan':14}{'batch':>6}{'context':>9}{'spans':>7}{'ms/step':>10}{'p10':>9}{'p90':>9}{'floor':>9}"
    )
    for r in found:
        print(
            f"{r['plan']:14}{r['batch']:>6}{r['context']:>9}{r['spans']!s:>7}{r['step_ms']:>10.3f}"
            f"{r['p10_ms']:>9.3f}{r['p90_ms']:>9.3f}{r['floor_ms']:>9.3f}"
        )


if __name__ == "__main__":
    main()
