"""`python -m fapool protocol` writes the paper's runs as specs; `verdict` judges them when done."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fapool import spec as specs
from fapool.analysis.comparison.verdict import Side, Verdict, verdicts
from fapool.analysis.statistics.sample import Interval
from fapool.errors import SpecError
from fapool.figures.printed import between, number, probability
from fapool.protocol import PAPER
from fapool.store import Run


def write_specs(
    paths: Sequence[Path],
    folder: Path,
    *,
    sequences: int | None = None,
    trials: int | None = None,
    scale: float = 1.0,
    console: Console | None = None,
) -> list[Path]:
    """Write a YAML file a run: for every spec, category and trial; say how to run and judge them.

    Trials come first in the order of names, so that what drifts touches all plans and categories.

    Raises:
        SpecError: a spec is wrong, or the protocol cannot be made of it, or the folder not written.
    """
    console, written = console or Console(), []
    given = [specs.read(path) for path in paths]
    made = [PAPER.specs(spec, sequences=sequences, trials=trials, scale=scale) for spec in given]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for number_of_plan, runs in enumerate(made, start=1):
            for run in runs:
                trial = run.workload.seed + 1
                category = list(PAPER.categories).index(PAPER.category_of(run) or "") + 1
                name = f"trial{trial}-{category}-{run.name.split('-', 1)[1].rsplit('-', 1)[0]}"
                path = folder / f"{name}-plan{number_of_plan}.yaml"
                path.write_text(run.to_yaml())
                written.append(path)
    except OSError as error:
        raise SpecError("out", str(folder), f"cannot be written: {error.strerror}") from None
    world = max(spec.plan.world for spec in given)
    console.print(f"{len(written)} specs in {folder}; to run them:", soft_wrap=True, markup=False)
    console.print(
        f"  for spec in {folder}/*.yaml; do torchrun --nproc-per-node {world} -m fapool run $spec "
        "--store STORE || break; done",
        soft_wrap=True, markup=False,
    )  # fmt: skip
    console.print("  python -m fapool verdict STORE/*protocol*", soft_wrap=True, markup=False)
    return sorted(written)


def judge(runs: Sequence[Run], console: Console | None = None) -> list[Verdict]:
    """Print what the runs prove, category by category, and which conditions hold.

    Raises:
        StoreError: see `verdicts`.
    """
    console = console or Console()
    found = verdicts(runs)
    for plan in dict.fromkeys(verdict.b.plan for verdict in found):
        own = [verdict for verdict in found if verdict.b.plan == plan]
        console.print(_table(own))
        for verdict in own:
            for condition in verdict.conditions:
                word = ("holds", "green") if condition.holds else ("does not hold", "red")
                text = Text.assemble(
                    f"{verdict.category}, {condition.name} ", word, f": {condition.words}"
                )
                console.print(text, soft_wrap=True)
    scales = {run.spec.workload.length_scale for run in runs}
    if scales != {1.0}:
        said = f"lengths and threshold were shrunk to {scales.pop():g} of the protocol's"
        console.print(Text(f"{said}: nothing is proved of its categories", "yellow"))
    return found


def _table(found: Sequence[Verdict]) -> Table:
    a, b = found[0].a.plan, found[0].b.plan
    table = Table(
        title=f"mean TPOT, ms; B = {b} against A = {a}; unit: trial; p by Holm; × is A / B",
        box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True, title_justify="left",
    )  # fmt: skip
    table.add_column("category", no_wrap=True)
    for name in ("A", "B", "×", "B - A", "95 %", "p", "g", "protocol"):
        table.add_column(name, justify="right")
    for verdict in found:
        one = verdict.contrast
        table.add_row(
            verdict.category,
            _mean(verdict.a),
            _mean(verdict.b),
            f"{verdict.ratio:.3f}",
            number(one.difference),
            between(one.low, one.high),
            probability(one.p),
            number(one.hedges_g),
            "holds" if verdict.holds else "fails",
        )
    return table


def _mean(side: Side) -> str:
    return f"{number(float(side.means.mean()))} {_half(side.interval)}".rstrip()


def _half(found: Interval) -> str:
    half = (found.high - found.low) / 2
    return "" if half != half else f"±{number(half)}"
