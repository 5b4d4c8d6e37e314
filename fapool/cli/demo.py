"""`python -m fapool demo`: the workbench's work, unattended, on CPU ranks of this machine."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table

from fapool.cli.show import HEADLINE, compare, show
from fapool.cluster import Execution, Ranks
from fapool.phases import Category
from fapool.spec import Capture, FAPool, Helix, RunSpec, Static, TraceWorkload
from fapool.store import Run, Store
from fapool.workload import read_lengths, write_synthetic

SCALE = 1 / 16
"""Lengths and the threshold shrink by this, so that a CPU gets through them."""

THRESHOLD = 4096
"""Tokens, as published: the paper's threshold (section 4.3)."""

SAMPLE = 32
"""Requests drawn from the trace; all of them where it has fewer."""

CAVEAT = (
    "CPU ranks that share cores show the mechanism and that the bookkeeping adds up, not which "
    "layout wins: measure that on GPUs."
)


def demo_specs(trace: Path, ranks: int) -> list[RunSpec]:
    """FA Pool, alone and with a base that attends too, Helix and static layouts; equal requests.

    Raises:
        TraceFileError: the trace cannot be read.
    """
    work = TraceWorkload(
        path=trace.absolute(),
        sample=min(SAMPLE, max(1, len(read_lengths(trace)))),
        batch=4,
        length_scale=SCALE,
        output_scale=1.0,
        max_output=16,
        seed=7,
    )
    plans = (
        FAPool(base=1, pool=ranks - 1, threshold=THRESHOLD),
        FAPool(base=1, pool=ranks - 1, threshold=THRESHOLD, base_attends=True),
        Helix(kvp=4, tp=1),
        Helix(kvp=2, tp=2),
        Static(tp=4, pp=1),
        Static(tp=2, pp=2),
        Static(tp=1, pp=2),
    )
    return [
        RunSpec(
            name="demo",
            model="cpu",
            plan=plan,
            workload=work,
            device="cpu",
            block=16,
            prefill_chunk=256,
            warmup=1,
            capture=Capture(profile_steps=3),
        )
        for plan in plans
    ]


def demo(store: Store, *, trace: Path | None, ranks: int, console: Console | None = None) -> None:
    """Run, show and compare the layouts; writes `report-<time>.html` beside the run folders.

    Raises:
        SpecError: the trace cannot be read; nothing was started.
        StoreError: the store cannot be written; nothing was started.
        RankFailed: a rank died; its run's folder says so.
    """
    console = console or Console()
    started = time.monotonic()
    store.prepare()
    if trace is None:
        trace = write_synthetic(store.root / "demo-lengths.csv")
        console.print(f"no trace given: drew lengths into {trace}", soft_wrap=True)
    try:
        runs = _run_all(demo_specs(trace, ranks), store, ranks, console)
    except KeyboardInterrupt:
        console.print(f"interrupted; what was run is under {store.root}", soft_wrap=True)
        raise
    show(runs[0], console, only=HEADLINE)
    report = store.root / f"report-{time.strftime('%Y%m%d-%H%M%S')}.html"
    compare(runs, report=report, console=console, only=HEADLINE, changes=False)
    for run in runs:
        console.print(f"{run.spec.plan}: {run.path}", soft_wrap=True)
    again = f"python -m fapool compare RUN RUN --store {store.root}"
    console.print(f"all metrics are in the report; or: {again}", soft_wrap=True, markup=False)
    console.print(CAVEAT, soft_wrap=True)
    console.print(f"{time.monotonic() - started:.0f} s in all")


def _run_all(specs: list[RunSpec], store: Store, ranks: int, console: Console) -> list[Run]:
    with console.status("starting ranks") as status:
        warm = Ranks.start(ranks, on_progress=status.update)
    with warm:
        for spec in specs:
            warm.check(spec)
        return [_watch(warm.run(spec, store), console) for spec in specs]


def _watch(execution: Execution, console: Console) -> Run:
    """Show a run's samples until it has ended."""
    with Live(console=console, refresh_per_second=4, transient=True) as live:
        while not execution.done:
            live.update(_table(execution))
            time.sleep(0.25)
    run = execution.wait()
    console.print(f"{run.spec.plan} {run.status.state}, check error {run.correctness['error']:.1e}")
    return run


def _table(execution: Execution) -> Table:
    table = Table(title=f"{execution.spec.plan}: share of wall time so far, %")
    table.add_column("rank")
    for name in ("stage", "step", *Category, "KV, MiB", "TPOT, ms"):
        table.add_column(name, justify="right")
    for rank, sample in sorted(execution.samples().items()):
        shares = [100 * sample.category_ns[c] / max(1, sample.wall_ns) for c in Category]
        table.add_row(
            f"{rank} {sample.role}",
            sample.stage,
            f"{sample.step}/{sample.steps}",
            *(f"{share:.1f}" for share in shares),
            f"{sample.memory_bytes.get('kv_used', 0) / 2**20:.2f}",
            f"{sample.tpot_ms:.1f}" if sample.tpot_ms else "",
        )
    return table
