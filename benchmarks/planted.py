"""Planted truth: known delays in one rank, and where the breakdown says that their time went.

    torchrun --nproc-per-node 2 benchmarks/planted.py --out results                  # two GPUs
    torchrun --nproc-per-node 2 benchmarks/planted.py --out results --device cpu

Runs FAPool(1,1) or Static(2,1) with each plant of `planting.py`; by messages, every step eager and
with spans. Writes `planted-<device>.json`, and target profiler.d into `targets.json`
beside it; prints a line a plant.

A delay on a GPU lets its host get ahead, and the gaps between later kernels close: with 20 ms in
the first of eight sums of Static(2,1), the other seven waited 1.9 ms less on 2 x H100, and theirs
is the same phase. So delays are long against what a step's launches take.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path

import torch
from landing import TOLERANCE, judge
from planting import Plant, planted, plants, spec_for, threshold_for
from targets import record

from fapool.analysis.measured import machine
from fapool.cli.run import run_spec
from fapool.store import Run, Store

DEVICES, DELAY_MS = ("cpu", "cuda"), 120


def run_all(out: Path, device: str, delay_ms: int) -> dict[str, dict] | None:
    """Each plant's verdict on rank 0, None elsewhere. Collective."""
    rank, store, paths = int(os.environ["RANK"]), Store(out / "profiles"), {}
    every = plants(threshold_for(device))
    for name, plant in every.items():
        spec = spec_for(plant.plan, out, device=device)
        with planted(plant, rank, delay_ns=delay_ms * 1_000_000, device=device) as notes:
            paths[name] = run_spec(spec, store)
        if plant.rank == rank:
            (out / f"planted-{name}.notes.json").write_text(json.dumps(notes))
    if rank != 0:
        return None
    # The last plant is rank 0's own, so that all notes are written by now.
    return {name: _verdict(out, name, every[name], Run(path)) for name, path in paths.items()}


def _verdict(out: Path, name: str, plant: Plant, run: Run) -> dict:
    notes = json.loads((out / f"planted-{name}.notes.json").read_text())
    where = {"rank": plant.found_on, "category": plant.category, "phase": plant.phase}
    found = judge(run, notes, **where)
    return {
        "plan": str(plant.plan),
        "planted_on_rank": plant.rank,
        "found_on_rank": plant.found_on,
        "found_in": f"{plant.category} {plant.phase}",
        "steps": found.steps,
        "planted_ms": round(found.planted_ms, 4),
        "found_ms": round(found.found_ms, 4),
        "error": round(found.error, 5),
        "largest_elsewhere": found.stray,
        "largest_elsewhere_ms": round(found.stray_ms, 4),
        "holds": found.holds,
        "machine": machine(run.spec, run.environment["ranks"]),
    }


def main() -> None:
    """Run, write, print; exit status 1 where a plant was not found."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", choices=DEVICES, default="cuda")
    parser.add_argument("--delay-ms", type=int, default=DELAY_MS)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    found = run_all(options.out, options.device, options.delay_ms)
    if found is None:
        return
    place = next(iter(found.values()))["machine"]
    result = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "machine": place}
    result |= {"torch": torch.__version__, "delay_ms": options.delay_ms, "plants": found}
    path = options.out / f"planted-{options.device}.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    holds = all(one["holds"] for one in found.values())
    record(
        "profiler.d",
        value={name: one["error"] for name, one in found.items()},
        target=f"|.| <= {TOLERANCE}, and no other part of the rank changes by more",
        holds=holds,
        what="planted delays: time found in their category and phase over what was planted, less "
        f"one; median of the delayed decode steps, {options.delay_ms} ms a step",
        machine=place,
        path=options.out / "targets.json",
    )
    for name, one in found.items():
        print(f"{name:10}{one['planted_ms']:10.3f} ms planted, {one['found_ms']:10.3f} found in "
              f"{one['found_in']}; elsewhere at most {one['largest_elsewhere_ms']:.3f} "
              f"({one['largest_elsewhere']}) {'holds' if one['holds'] else 'FAILS'}")  # fmt: skip
    sys.exit(not holds)


if __name__ == "__main__":
    main()
