"""Print what changed from one run to another: metrics with intervals, and a step phase by phase."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fapool.analysis.comparison.changes import Change, changes, folded
from fapool.analysis.comparison.table import beside_plan, contrasts
from fapool.analysis.measured import on_gpus
from fapool.analysis.metrics import definitions
from fapool.analysis.sampled import WITHOUT
from fapool.analysis.statistics import doubts
from fapool.analysis.statistics.units import REPEAT, scope
from fapool.analysis.study import Study
from fapool.analysis.summary import rounded
from fapool.cli.tables import titled
from fapool.figures.printed import between, number, probability

HEADS = ("A", "B", "change", "95 %", "p")


def print_changes(a: Study, b: Study, console: Console, *, only: Sequence[str]) -> None:
    """What `b` is beside `a`; `only` names the metrics. Prints nothing of what neither run knows.

    Parts of a step are as printed: they sum to the step that is printed beneath them.
    """
    found = contrasts(a, b)
    found = found.loc[[name for name in only if name in found.index]]
    if len(found):
        console.print(_metrics(found, a, b))
    for change in changes(a, b):
        if change.disturbance:
            console.print(Text(f"beware: {change.disturbance}", "bold yellow"), soft_wrap=True)
        console.print(_parts(change, a, b))
    for study in (a, b):
        if not study.has_spans:
            console.print(Text(f"{study.label}: {WITHOUT}", "yellow"), soft_wrap=True)
        if study.sampling:
            said = f"{study.label}: {study.sampling.words}; phases are known of the sampled"
            console.print(Text(said, "dim"), soft_wrap=True)


def print_other_work(found: Sequence[Study], console: Console) -> None:
    """What differs beside the plan, if anything does: metrics then tell of that, too."""
    other = beside_plan(found)
    if not other:
        return
    said = "; ".join(f"{field} {' / '.join(map(_value, row))}" for field, row in other.items())
    words = f"more than the plan differs, so that this is no comparison of plans alone: {said}"
    console.print(Text(words, "bold yellow"), soft_wrap=True)


def _value(value: object) -> str:
    return "–" if value is None else str(value)


def print_doubts(found: Sequence[Study], console: Console) -> None:
    """What is to be known of the runs before their numbers are believed."""
    for sentence in doubts.of_runs(found):
        console.print(Text(sentence, "yellow"), soft_wrap=True)


def _metrics(found: pd.DataFrame, a: Study, b: Study) -> Table:
    alone = "p of each metric by itself" if (found["units"] == REPEAT).all() else "no p"
    table = titled(f"B = {b.label} against A = {a.label}\n{scope(*found['units'])}; {alone}")
    for name in ("metric", "unit"):
        table.add_column(name, no_wrap=True)
    for name in HEADS:
        table.add_column(name, justify="right")
    words = definitions(on_gpus=on_gpus(a) and on_gpus(b))
    for name, row in found.iterrows():
        table.add_row(
            str(name),
            words[str(name)][0],
            number(row["a"]),
            number(row["b"]),
            number(row["change"]),
            between(row["low"], row["high"]),
            probability(row["p"]),
        )
    return table


def _parts(change: Change, a: Study, b: Study) -> Table:
    table = titled(
        f"mean ms per {change.noun} of a {change.role} rank: B = {b.label} against A = {a.label}\n"
        f"{scope(change.units)}; {'p by Holm' if change.tested else 'no p'}"
    )
    table.add_column("phase", no_wrap=True)
    table.add_column("counts as")
    for name in HEADS:
        table.add_column(name, justify="right")
    parts = folded(change)
    columns = {
        name: rounded(parts[name].tolist(), change.step[name])
        for name in ("a_ms", "b_ms", "change_ms")
    }
    for at, row in enumerate(parts.to_dict("records")):
        cells = [f"{shown[at]:.3f}" for shown, _ in columns.values()]
        interval = between(row["low_ms"], row["high_ms"], "{:+.3f}")
        name = row["phase"] or row["category"]
        counts = row["category"] if row["phase"] else ""
        table.add_row(name, counts, *cells, interval, probability(row["p"]))
    table.add_section()
    step = change.step
    interval = between(step["low_ms"], step["high_ms"], "{:+.3f}")
    wholes = [f"{whole:.3f}" for _, whole in columns.values()]
    table.add_row("= step", "", *wholes, interval, probability(step["p"]))
    return table
