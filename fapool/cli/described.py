"""Print what a run took: mean with interval, percentiles and spread, and what to doubt of them."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from fapool.analysis.statistics import doubts
from fapool.analysis.statistics.described import described
from fapool.analysis.statistics.units import REPEAT
from fapool.analysis.study import Study
from fapool.cli.tables import titled
from fapool.figures.printed import SPREAD, spread


def print_described(found: Study, console: Console) -> None:
    """A row each for TPOT, TTFT and the decode step, in ms, and the run's doubts beneath."""
    samples = described(found)
    repeated = any(sample.units == REPEAT for sample in samples)
    within = "over repeats" if repeated else "of what varies within this run"
    table = titled(f"ms; 95 % intervals of the mean, {within}")
    table.add_column("")
    for name in SPREAD:
        table.add_column(name, justify="right", no_wrap=True)
    for sample in samples:
        table.add_row(sample.name, *spread(sample))
    if samples:
        console.print(table)
    for sentence in doubts.of_run(found):
        console.print(Text(sentence, "yellow"), soft_wrap=True)
