"""What the profiler says of GPU runs, held against itself and against HTA: runs in, targets out.

    torchrun ... -m fapool run spec.yaml       # capture: {profile_steps: 8, sample_every: 2}
    python benchmarks/trusted.py RUN_FOLDER... --out results

For every run folder: whether the parts of each step and rank sum to its wall time, live and by
kernels (profiler.a); the most that a live span's step differs from the trace's account of the same
step, of any step, rank and category, as a share of the step, and by how much sampled steps take
longer than others (profiler.c); the least that is known of a rank's clock (profiler.g). HTA on the
same traces is `trace_reading.py --traces` (profiler.b). Needs no GPU: the folders may come
from elsewhere. Writes trusted.json; prints a line a run.
"""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime
from pathlib import Path

from targets import record

from fapool.analysis.breakdown import PARTS, Breakdown, breakdown
from fapool.analysis.deep.agreement import traced_run
from fapool.analysis.load import load
from fapool.analysis.measured import machine
from fapool.analysis.sampled import sampling
from fapool.store import Run

CLOSE, CLOCK_NS = 0.03, 5_000


def row(run: Run) -> dict:
    """A line of the table."""
    assert run.correctness["passed"] is True, f"{run.name} was not correct"
    found = traced_run(run)
    assert found is not None and found.live is not None, f"{run.name} has no traced steps"
    every = (breakdown(load(run)), found.live, found.found.parted)
    ranks, sampled = run.environment["ranks"], sampling(run.table("steps"))
    return {
        "run": run.name,
        "plan": str(run.spec.plan),
        "batch": run.spec.workload.batch,
        "machine": machine(run.spec, ranks),
        "steps_parted": sum(len(parted.steps) for parted in every),
        "not_exact": sum(map(not_exact, every)),
        "live_against_trace": round(float(found.depths.worst), 5),
        "sampled_over_others": sampled and round(sampled.sampled_ms / sampled.others_ms - 1, 4),
        "clock_uncertainty_ns": [rank["clock"]["uncertainty_ns"] for rank in ranks],
    }


def not_exact(parted: Breakdown) -> int:
    """Steps of ranks whose five parts do not sum to the wall time, to the nanosecond."""
    return int((parted.steps[PARTS].sum(axis=1) != parted.steps["wall_ns"]).sum())


def main() -> None:
    """Read all, write the JSON, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    rows = [row(Run(path.absolute())) for path in options.runs]
    result = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "runs": rows}
    (options.out / "trusted.json").write_text(json.dumps(result, indent=2) + "\n")
    judge(rows, options.out / "targets.json")
    print(f"{'plan':22}{'batch':>6}{'steps':>7}{'inexact':>9}{'live-trace':>12}{'clock, us':>16}")
    for r in rows:
        clock = ", ".join(f"{ns / 1e3:.1f}" for ns in r["clock_uncertainty_ns"])
        print(
            f"{r['plan']:22}{r['batch']:>6}{r['steps_parted']:>7}{r['not_exact']:>9}"
            f"{r['live_against_trace']:>12.2%}{clock:>16}"
        )


def judge(rows: list[dict], path: Path) -> None:
    """Record the targets that these runs decide."""
    where = {"machine": "; ".join(sorted({r["machine"] for r in rows})), "path": path}
    inexact = sum(r["not_exact"] for r in rows)
    record(
        "profiler.a",
        value={"steps": sum(r["steps_parted"] for r in rows), "not_exact": inexact},
        target="every rank and step, to the nanosecond",
        holds=inexact == 0,
        what="steps whose parts do not sum to the wall time, live and by kernels",
        **where,
    )
    close = {f"{r['plan']}, batch {r['batch']}": r["live_against_trace"] for r in rows}
    longer = {f"{r['plan']}, batch {r['batch']}": r["sampled_over_others"] for r in rows}
    record(
        "profiler.c",
        value={"live_against_trace": close, "sampled_steps_over_others": longer},
        target=f"<= {CLOSE} of the step, worst step, rank and category; the other is stated",
        holds=max(close.values()) <= CLOSE,
        what="live against the trace of the same sampled decode steps",
        **where,
    )
    worst = max(ns for r in rows for ns in r["clock_uncertainty_ns"])
    record(
        "profiler.g",
        value={"worst_rank_ns": worst},
        target=f"<= {CLOCK_NS} ns on GPUs of one host",
        holds=worst <= CLOCK_NS,
        what="uncertainty of a rank's times against rank 0's host",
        **where,
    )


if __name__ == "__main__":
    main()
