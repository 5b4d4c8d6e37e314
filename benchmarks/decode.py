"""Decode steps of every layout on the same GPUs, each checked first, beside the physical limit.

    torchrun --nproc-per-node 4 benchmarks/decode.py --out results            # or 2
    torchrun --nproc-per-node 2 benchmarks/decode.py --out results --plans fapool \
        --only paper-4l,64,16384
    torchrun --nproc-per-node 4 benchmarks/decode.py --out results --plans shared hierarchical

The paper's 4-layer model in bf16, with as many KV heads as query heads (MHA) or one (MQA). A row
says the median of the decode steps of rank 0 without spans in them, with their 10th and 90th
percentile, and beside it the floor: the bytes that the busiest ranks must read in a step, over the
best measured bandwidth of an H200 (4.45 TB/s). Where base and pool work in turn their times add up;
where the base attends as well, and in the other layouts, it is the busiest rank's alone.

Writes `decode-<n>gpu.json`, and from four GPUs on the targets that it measures; prints the table
last.
"""

from __future__ import annotations

import argparse
import json
import os
from datetime import UTC, datetime
from pathlib import Path

from targets import record

from fapool.cli.run import run_spec
from fapool.errors import SpecError
from fapool.forecast.memory import footprint, weight_bytes
from fapool.spec import Capture, FAPool, Helix, Model, RunSpec, Static, Workload, check_layout
from fapool.store import Run, Store
from fapool.topology import lent_deal, place

BANDWIDTH = 4.45e12  # bytes/s
THRESHOLD = 2048
JOINT = {8192: 0.93, 16384: 0.97, 32768: 0.97}  # context -> target of the joint base's speed
OPTIONS = "shared hierarchical"  # of FA Pool, measured only where they are asked for
ROOM = 120 * 2**30  # bytes of a GPU; where each pool rank has all keys, not every point fits
BELOW = 4096  # a context that a threshold of its own keeps at home
GRID = (  # model, batch, context
    ("paper-4l", 1, 4096),
    ("paper-4l", 1, 16384),
    ("paper-4l", 1, 131072),
    ("paper-4l", 16, 16384),
    ("paper-4l", 64, 4096),
    ("paper-4l", 64, 8192),
    ("paper-4l", 64, 16384),
    ("paper-4l", 64, 32768),
    ("paper-4l-mqa", 64, 32768),
)


def plans(ranks: int) -> list:
    """Every layout that takes `ranks` GPUs."""
    splits = [base for base in (1, 2) if base < ranks]
    pools = [
        FAPool(base=base, pool=ranks - base, threshold=THRESHOLD, base_attends=joint)
        for base in splits
        for joint in (False, True)
    ]
    return [Static(tp=ranks), *helixes(ranks), *pools]


def options_of(ranks: int, name: str) -> list:
    """FA Pool with one of `OPTIONS`."""
    option = {"kv" if name == "shared" else "reduction": name}
    splits = [base for base in (1, 2) if base < ranks]
    return [FAPool(base=b, pool=ranks - b, threshold=THRESHOLD, **option) for b in splits]


def helixes(ranks: int) -> list:
    """Helix over all ranks, by sequence alone and by half."""
    return [Helix(kvp=ranks, tp=1)] + [Helix(kvp=2, tp=ranks // 2)] * (ranks > 2)


def spec_of(model: str, plan, batch: int, context: int, options) -> RunSpec:
    """One measured point."""
    return RunSpec(
        name=f"b{batch}-{context // 1024}k",
        model=model,
        plan=plan,
        workload=Workload(batch=batch, context=context, output=options.output),
        device="cuda",
        backend=options.backend,
        transport="messages" if _merges(plan) else options.transport,
        graphs=not options.eager,
        warmup=0,
        capture=Capture(spans=options.spans, memory=False),
    )


def _merges(plan) -> bool:
    """Whether its partials are merged in nodes, by messages."""
    return getattr(plan, "reduction", "flat") == "hierarchical"


def _is_laid_out(model: str, plan) -> bool:
    """Whether the plan is one of the model: without columns there is nothing to merge in a node."""
    try:
        check_layout(Model.preset(model), plan)
    except SpecError:
        return False
    return True


def _copies(spec: RunSpec) -> bool:
    """Whether each pool rank has all keys of a request."""
    return getattr(spec.plan, "kv", "sharded") == "shared"


def _fits(spec: RunSpec) -> bool:
    return max(sum(owned.values()) for owned in footprint(spec)) <= ROOM


def floor_ms(spec: RunSpec) -> float:
    """Weights and keys of a step over the bandwidth; see the top of the file."""
    work, model, world = spec.workload, spec.model, spec.plan.world
    kv = work.batch * work.context * model.kv_bytes_per_token
    places = [place(spec, rank) for rank in range(world)]
    if not isinstance(spec.plan, FAPool) or spec.plan.threshold >= work.context:
        read = [read_bytes(model, at) + kv * _heads(spec, at) / _sharers(spec) for at in places]
        return max(read) / BANDWIDTH * 1e3
    deal = lent_deal(spec, range(max(at.keeper for at in places) + 1))
    weights = max(read_bytes(model, at) for at in places)
    turns = {k: deal.pattern.count(k) / len(deal.pattern) for k in {at.keeper for at in places}}
    if deal.copied:  # the busiest attends for so many of the requests
        busiest = -(-work.batch // len(deal.pattern)) / work.batch
        turns = {keeper: busiest * (keeper in deal.keepers) for keeper in turns}
    shares = {at.rank: kv * _heads(spec, at) * turns[at.keeper] for at in places}
    if not spec.plan.base_attends:
        return (weights + max(shares.values())) / BANDWIDTH * 1e3
    # The base could take less of the keys than it does, so that all ranks end together.
    even = (weights * spec.plan.base + sum(shares.values())) / world
    return max(weights, even) / BANDWIDTH * 1e3


def read_bytes(model: Model, at) -> int:
    """Weights that a rank reads in a decode step: of the embedding only its slice of the vocab."""
    whole = model.vocab * model.hidden * model.itemsize * (at.is_first or at.is_last)
    return weight_bytes(model, at) - whole + len(at.vocab) * model.hidden * model.itemsize


def _heads(spec: RunSpec, at) -> float:
    return len(at.kv_heads) / spec.model.kv_heads


def _sharers(spec: RunSpec) -> int:
    return getattr(spec.plan, "kvp", 1)


def row(run: Run) -> dict:
    """One line of the table."""
    spec, steps = run.spec, run.table("steps")
    decode = steps[(steps["rank"] == 0) & (steps["kind"] == "decode")].iloc[2:]
    plain = decode[decode["method"] == "none"]
    took = (plain["end_ns"] - plain["start_ns"] if len(plain) else _took(decode)) / 1e6
    sampled = _took(decode[decode["method"] != "none"]) / 1e6
    ranks = run.environment["ranks"]
    obstacles = {r.get("transport_reason") for r in ranks} - {None}
    if spec.transport != "messages" and obstacles:
        raise SystemExit(f"{spec.plan}: messages instead of shared memory: {obstacles}")
    return {
        "model": spec.model.name,
        "plan": str(spec.plan),
        "batch": spec.workload.batch,
        "context": spec.workload.context,
        "leased": bool((decode["leased"] > 0).any()),
        "step_ms": round(float(took.median()), 4),
        "p10_ms": round(float(took.quantile(0.1)), 4),
        "p90_ms": round(float(took.quantile(0.9)), 4),
        "sampled_ms": round(float(sampled.median()), 4) if len(sampled) else None,
        "floor_ms": round(floor_ms(spec), 4),
        "steps": len(took),
        "backends": ranks[-1]["backends"],
        "transport": ranks[-1].get("transport"),
        "check_error": run.correctness["error"],
        "check_passed": run.correctness["passed"],
    }


def _took(steps):
    return steps["end_ns"] - steps["start_ns"]


def points(options, ranks: int) -> list[RunSpec]:
    """All that is to be run."""
    wanted = set(options.only or ())
    grid = [g for g in GRID if not wanted or "{},{},{}".format(*g) in wanted]
    wished = options.plans or ("static", "helix", "fapool")
    named = [p for p in plans(ranks) if p.kind in wished]
    named += [p for name in OPTIONS.split() if name in wished for p in options_of(ranks, name)]
    laid = [(g, plan) for g in grid for plan in named if _is_laid_out(g[0], plan)]
    specs = [spec_of(*(g[0], plan, *g[1:]), options) for g, plan in laid]
    specs = [spec for spec in specs if not _copies(spec) or _fits(spec)]
    if not wanted or f"paper-4l,64,{BELOW}" in wanted:
        for plan in (Static(), FAPool(base=1, pool=ranks - 1, threshold=2 * BELOW)):
            specs += [spec_of("paper-4l", plan, batch, BELOW, options) for batch in (1, 64)]
    return specs


def judge(rows: list[dict], machine: str) -> None:
    """Record the targets that rows on four GPUs decide; one whose rows are missing is left."""
    names = ("model", "batch", "context", "plan")
    took, floor = (
        {tuple(r[name] for name in names): r[ms] for r in rows if r["context"] != BELOW}
        for ms in ("step_ms", "floor_ms")
    )
    home = {
        (r["batch"], r["plan"]): r["step_ms"]
        for r in rows
        if r["context"] == BELOW and not r["leased"]
    }

    def best(kind: str, *point) -> float:
        return min(ms for key, ms in took.items() if key[:3] == point and kind in key[3])

    def least(kinds: tuple[str, ...], *point) -> float:
        return min(best(kind, *point) for kind in kinds)

    mha, mqa = "paper-4l", "paper-4l-mqa"
    pool, static = (mha, 64, 16384, "FAPool(1,3)"), (mqa, 64, 32768, "Static(4,1)")
    peers = ("Static", "Helix")
    speed = {c: lambda c=c: least(peers, mha, 64, c) / best("joint", mha, 64, c) for c in JOINT}
    decided = {
        "gpu.b": ("FAPool(1,3), 64 x 16 K, over its floor", lambda: took[pool] / floor[pool], 1.08),
        "gpu.c": (
            "best FAPool over Static(4,1), 1 x 16 K",
            lambda: best("FAPool", mha, 1, 16384) / best("Static(4,1)", mha, 1, 16384),
            1.3,
        ),
        "gpu.e": (
            "below the threshold: FAPool(1,3) over Static(1,1), 1 and 64 x 4 K, the worse",
            lambda: max(home[b, "FAPool(1,3)"] / home[b, "Static(1,1)"] for b in (1, 64)),
            1.01,
        ),
        **{
            f"gpu.d1.{c // 1024}k": (
                f"speed of the best joint FAPool in that of Static and Helix, 64 x {c // 1024} K",
                speed[c],
                -goal,
            )
            for c, goal in JOINT.items()
        },
        "gpu.d2": (
            "one KV head, 64 x 32 K: speed of the best FAPool in that of Static(4,1)",
            lambda: took[static] / best("FAPool", *static[:3]),
            -1.4,
        ),
        "gpu.d2.helix": (
            "one KV head, 64 x 32 K: speed of the best FAPool in that of Helix",
            lambda: best("Helix", *static[:3]) / best("FAPool", *static[:3]),
            -0.9,
        ),
    }
    for target_id, (what, value_of, limit) in decided.items():
        try:
            value = round(value_of(), 4)
        except (KeyError, ValueError):
            continue
        holds = value <= limit if limit > 0 else value >= -limit
        words = f"{'<=' if limit > 0 else '>='} {abs(limit)}"
        record(target_id, value=value, target=words, holds=holds, what=what, machine=machine)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--output", type=int, default=64, help="tokens generated per request")
    parser.add_argument("--only", nargs="*", help="points, as model,batch,context")
    parser.add_argument("--plans", nargs="*", help="static helix fapool; if asked " + OPTIONS)
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--transport", default="auto")
    parser.add_argument("--spans", action="store_true", help="sample steps with events in them")
    parser.add_argument("--eager", action="store_true", help="no CUDA graphs")
    return parser.parse_args()


def main() -> None:
    """Run all, write the JSON, print the table."""
    options, ranks = arguments(), int(os.environ["WORLD_SIZE"])
    store = Store(options.out / "profiles")
    found, environment = [], {}
    for spec in points(options, ranks):
        path = run_spec(spec, store)
        if path is not None:
            run = Run(path)
            found.append(row(run))
            environment = run.environment["ranks"][0]
            print(json.dumps(found[-1]), flush=True)
    if not found:
        return
    result = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "gpus": ranks,
        "environment": environment,
        "model": Model.preset("paper-4l").model_dump(),
        "rows": found,
    }
    (options.out / f"decode-{ranks}gpu.json").write_text(json.dumps(result, indent=2) + "\n")
    if ranks >= 4:
        judge(found, f"{ranks} x {environment['gpus'][0]['name']}")
    print(
        f"\n{'model':14}{'plan':20}{'batch':>6}{'context':>9}{'ms':>9}{'p90':>9}{'floor':>9}{'x':>7}"
    )
    for r in found:
        print(
            f"{r['model']:14}{r['plan']:20}{r['batch']:>6}{r['context']:>9}{r['step_ms']:>9.3f}"
            f"{r['p90_ms']:>9.3f}{r['floor_ms']:>9.3f}{r['step_ms'] / r['floor_ms']:>7.2f}"
        )


if __name__ == "__main__":
    main()
