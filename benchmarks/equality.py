"""Every plan and every backend against the one-device fp64 reference, on GPUs, in bf16.

    python benchmarks/equality.py --out results

Starts its own ranks by ipyparallel, four of them, which share the GPUs if there are fewer (their
messages then go through host memory; nothing here is timed). Each row is one run's own check:
lengths at, below and above the threshold and the block border, leases from the start and in the
middle of decoding. Writes `equality.json`; prints the table last.
"""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime
from pathlib import Path

from fapool.cluster import Ranks
from fapool.errors import FapoolError
from fapool.spec import Capture, FAPool, Helix, RunSpec, Static, Workload
from fapool.store import Store

PLANS = (
    Static(tp=4),
    Static(tp=2, pp=2),
    Static(pp=4),
    Helix(kvp=4),
    Helix(kvp=2, tp=2),
    FAPool(base=1, pool=3, threshold=2048),
    FAPool(base=2, pool=2, threshold=2048),
    FAPool(base=1, pool=3, threshold=2048, lease_ranks=2),
    FAPool(base=1, pool=3, threshold=2048, kv="shared"),
    FAPool(base=2, pool=2, threshold=2048, kv="shared"),
    FAPool(base=1, pool=3, threshold=2048, reduction="hierarchical"),
    FAPool(base=2, pool=1, threshold=2048),
)
BACKENDS = ("reference", "aten", "cudnn", "cudnn_tiled", "flash_attn")
MODELS = ("paper-4l", "paper-4l-gqa", "paper-4l-mqa")


def specs() -> list[RunSpec]:
    """All plans by `auto`; all backends and models on one plan that needs every kind of part."""
    work = Workload(batch=2, context=2100, output=4)
    common = {"workload": work, "device": "cuda", "warmup": 0, "capture": Capture(memory=False)}
    by_plan = [RunSpec(model="paper-4l", plan=plan, **common) for plan in PLANS]
    plan = FAPool(base=1, pool=1, threshold=2099)
    by_kernel = [
        RunSpec(model=model, plan=plan, backend=backend, **common)
        for model in MODELS
        for backend in BACKENDS
    ]
    return by_plan + by_kernel


def main() -> None:
    """Run all, write the JSON, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    rows, environment = [], None
    store = Store(options.out / "profiles")
    with Ranks.start(4) as ranks:
        for spec in specs():
            row = {"model": spec.model.name, "plan": str(spec.plan), "backend": spec.backend}
            try:
                run = ranks.run(spec, store).wait(300)
                environment = environment or run.environment["ranks"]
                first = run.environment["ranks"][-1]
                row |= run.correctness | {"messages": first["messages"], "ran": first["backends"]}
            except (FapoolError, TimeoutError) as error:
                row |= {"passed": False, "failed": str(error)[-1500:]}
            rows.append(row)
            print(json.dumps(row), flush=True)
    result = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": environment,
        "rows": rows,
    }
    (options.out / "equality.json").write_text(json.dumps(result, indent=2) + "\n")
    print(f"\n{'model':14}{'plan':28}{'backend':12}{'passed':>8}{'error':>12}")
    for r in rows:
        error = f"{r['error']:.2e}" if "error" in r else "failed"
        print(f"{r['model']:14}{r['plan']:28}{r['backend']:12}{r['passed']!s:>8}{error:>12}")


if __name__ == "__main__":
    main()
