"""What the live level costs: decode with spans and memory readings, and the same without.

    torchrun --nproc-per-node 4 benchmarks/live_cost.py --out results            # or 2

Runs of one spec in turn, without, with, without, with, ...; every run checks itself first. TPOT is
the mean of a run's decode steps on rank 0, sampled steps included, the first two left out. `cost`
is the median over pairs of neighbours of with / without, less one; `noise` the same of runs
without and the next run without: a cost below it is none that can be measured. Switched off there
are no spans at all, so that `noise` is also what can be said of a level that is off.

What was predicted before the first measurement: one step in sixteen has 60 to 70 events of 4.3 us,
so 0.28 / 16 = 0.02 ms a step: 2 % at batch 1 (0.86 ms), 0.1 % at batch 64 (15.9 ms). That left out
the hosts: they paced Static(2,1) at batch 1 (8 to 12 %, as they were quick), and read its events
for half a millisecond. Predicted for one step in 32 and hosts that keep ahead (`engine.STOPS`): its
events, 0.15 ms on an H100, of 32 steps of 0.66: 0.7 %. Measured then: 1.0 %.

Writes `live-cost-<n>gpu.json` and target profiler.e, and prints the table last.
"""

from __future__ import annotations

import argparse
import json
import os
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from statistics import median

from targets import record

from fapool.cli.run import run_spec
from fapool.spec import Capture, FAPool, RunSpec, Static, Workload
from fapool.store import Run, Store

POINTS = ((1, 16384, 0.03), (64, 16384, 0.01))  # batch, context, most that it may cost
OUTPUT = 160


def spec_of(plan, batch: int, context: int, live: bool) -> RunSpec:
    """One run."""
    return RunSpec(
        name=f"live-{'on' if live else 'off'}",
        model="paper-4l",
        plan=plan,
        workload=Workload(batch=batch, context=context, output=OUTPUT),
        device="cuda",
        prefill_chunk=8192,
        warmup=0,
        capture=Capture(spans=live, memory=live),
    )


def tpot_ms(run: Run) -> float:
    """See the top of the file."""
    assert run.correctness["passed"], "a run that was not correct has no performance"
    steps = run.table("steps")
    decode = steps[(steps["rank"] == 0) & (steps["kind"] == "decode")].iloc[2:]
    return float((decode["end_ns"] - decode["start_ns"]).mean()) / 1e6


def row(plan, batch: int, context: int, most: float, took: list[tuple[bool, float]]) -> dict:
    """A line of the table, from runs in the order in which they were made: (with, TPOT)."""
    without = [ms for live, ms in took if not live]
    pairs = [(a, b) for a, b in pairwise(took) if a[0] != b[0]]
    costs = [(a[1] / b[1] if a[0] else b[1] / a[1]) - 1 for a, b in pairs]
    return {
        "plan": str(plan),
        "batch": batch,
        "context": context,
        "without_ms": [round(ms, 4) for ms in without],
        "with_ms": [round(ms, 4) for live, ms in took if live],
        "cost": round(median(costs), 5),
        "noise": round(median(abs(b / a - 1) for a, b in pairwise(without)), 5),
        "most": most,
    }


def main() -> None:
    """Run all, write the JSON, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--batches", type=int, nargs="*", help="1, 64; both if left out")
    parser.add_argument("--plans", nargs="*", help='as they are printed, such as "FAPool(1,3)"')
    options, ranks = parser.parse_args(), int(os.environ["WORLD_SIZE"])
    store, rows, environment = Store(options.out / "profiles"), [], {}
    plans = [FAPool(base=1, pool=ranks - 1, threshold=2048), Static(tp=ranks)]
    for plan in [p for p in plans if not options.plans or str(p) in options.plans]:
        for batch, context, most in POINTS:
            if options.batches and batch not in options.batches:
                continue
            took = []
            for live in [False, True] * options.pairs + [False]:
                path = run_spec(spec_of(plan, batch, context, live), store)
                if path is not None:
                    took.append((live, tpot_ms(Run(path))))
                    environment = Run(path).environment["ranks"][0]
            if took:
                rows.append(row(plan, batch, context, most, took))
                print(json.dumps(rows[-1]), flush=True)
    if rows:
        report(rows, environment, ranks, options.out)


def report(rows: list[dict], environment: dict, ranks: int, out: Path) -> None:
    """Write what was found, and print it."""
    result = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "gpus": ranks,
        "environment": environment,
        "rows": rows,
    }
    (out / f"live-cost-{ranks}gpu.json").write_text(json.dumps(result, indent=2) + "\n")
    record(
        "profiler.e",
        value={f"{r['plan']}, batch {r['batch']}": r["cost"] for r in rows},
        target={f"batch {batch}": most for batch, _, most in POINTS},
        holds=all(r["cost"] <= r["most"] for r in rows),
        what="TPOT with the live level over TPOT without, less one, 16 K",
        machine=f"{ranks} x {environment['gpus'][0]['name']}",
    )
    print(f"\n{'plan':14}{'batch':>6}{'without':>10}{'with':>10}{'cost':>9}{'noise':>9}")
    for r in rows:
        print(
            f"{r['plan']:14}{r['batch']:>6}{median(r['without_ms']):>10.3f}"
            f"{median(r['with_ms']):>10.3f}{r['cost']:>9.2%}{r['noise']:>9.2%}"
        )


if __name__ == "__main__":
    main()
