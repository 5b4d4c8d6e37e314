"""Print what a run's traces say, beside what its live spans say of the same steps."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fapool.analysis.breakdown import PARTS
from fapool.analysis.clocks import words_of_traces
from fapool.analysis.deep.agreement import Depths, traced_run
from fapool.analysis.deep.breakdown import Deep, deep
from fapool.cli.tables import add_parts, mean_of, titled
from fapool.errors import FapoolError, StoreError
from fapool.figures.printed import summed
from fapool.store import Run
from fapool.traces import TraceFolder

LEVELS = {"live_ns": "live", "reached_ns": "trace", "deep_ns": "kernels"}
MEANINGS = {
    "live": "live: by spans",
    "trace": "trace: the same spans by the trace",
    "kernels": "kernels: by kernels alone, gaps are idle",
}
NOT_COMPARED = (
    "live and trace are not compared: no traced decode step is whole, with its spans, on all ranks"
)
WALLS = (
    "by spans a step ends where the device has done what the host launched in it, by kernels alone "
    "where the first kernel of the next begins: walls differ"
)
MOST = 5
"""Lines of a list that may be long."""

NAME_WIDTH = 60


def print_traced(run: Run, console: Console, folder: TraceFolder | None = None) -> None:
    """What the traces of a run say; nothing if it has none, a line if they cannot be read.

    `folder`: its traces, where they were read before.
    """
    try:
        found = traced_run(run, folder)
    except FapoolError as error:
        console.print(Text(f"its traces cannot be broken down: {error}", "yellow"), soft_wrap=True)
        return
    if found is None:
        return
    _print_lost(found.found, console)
    if found.depths is None or found.depths.rows.empty:
        if found.depths is not None and found.depths.lacking:
            console.print(Text(NOT_COMPARED, "yellow"), soft_wrap=True)
        _print_kinds(found.found, console)
        _print_clock(run, console)
        return
    levels = _levels(found.depths)
    console.print(_side_by_side(found.depths, levels))
    console.print(Text("; ".join(MEANINGS[word] for word in levels.values()), "dim"))
    for line in _agreement(found.depths):
        console.print(Text(line, "dim"), soft_wrap=True)
    _print_clock(run, console)
    _print_plain(found.found, found.depths, console)
    _print_doubts(found.found, console)


def print_spans(
    found: TraceFolder, run: Run | None, console: Console, step: int | None = None
) -> None:
    """The part of a breakdown that needs spans, of traces of ours; with their run's live spans.

    `step`: of one step alone, on the clock of its run and with what that knows of it.
    """
    if run is not None and run.traces and step is None:
        print_traced(run, console, found)
        return
    try:
        print_deep(_deep(found, run), console, step)
        console.print(Text(WALLS, "dim"), soft_wrap=True)
    except FapoolError as error:
        console.print(Text(f"no breakdown by spans: {error}", "yellow"), soft_wrap=True)


def _deep(found: TraceFolder, run: Run | None) -> Deep:
    """With what a run knows of its steps and clocks, where it left that."""
    try:
        of_run = traced_run(run, found) if run is not None else None
    except StoreError:  # it ended before its tables were whole
        of_run = None
    return of_run.found if of_run else deep(found.traces)


def print_deep(found: Deep, console: Console, step: int | None = None) -> None:
    """The breakdown by kernels of traces that nothing live stands beside."""
    found = found if step is None else found.of_step(step)
    _print_lost(found, console)
    _print_kinds(found, console, step)


def _print_kinds(found: Deep, console: Console, step: int | None = None) -> None:
    for kind, own in found.parted.steps.groupby("kind", sort=False):
        of = f"step {step}" if step is not None else mean_of(own, "traced")
        console.print(_by_kernels(own, f"by spans and kernels: ms per {kind}, {of}"))
    _print_doubts(found, console)


def _print_clock(run: Run, console: Console) -> None:
    """The traces' own: all levels but the live one rest on it."""
    if words := words_of_traces(run):
        console.print(Text(f"times of the trace are {words}", "dim"), soft_wrap=True)


def _print_lost(found: Deep, console: Console) -> None:
    for line in found.lost:
        console.print(Text(line, "bold red"), soft_wrap=True)


def _print_plain(found: Deep, depths: Depths, console: Console) -> None:
    """Decode steps that replayed graphs without events: only the trace knows of these."""
    steps = found.parted.steps
    live = [*depths.rows["step"], *depths.lacking]
    plain = steps[(steps["kind"] == "decode") & ~steps["step"].isin(live)]
    if len(plain):
        title = f"by kernels: ms per decode step without live spans, {mean_of(plain, 'traced')}"
        console.print(_by_kernels(plain, title))
    if len(found.replays):
        own = found.replays.groupby("rank")[["replays", "sampled"]].sum()
        said = [f"{row.sampled} of {row.replays} on rank {row.Index}" for row in own.itertuples()]
        line = f"replays that were of graphs with events: {', '.join(said)}"
        console.print(Text(line, "dim"), soft_wrap=True)


def _by_kernels(steps: pd.DataFrame, title: str) -> Table:
    means = steps.groupby(["rank", "role"])[[*PARTS, "wall_ns"]].mean() / 1e6
    rows = [
        ((f"rank {rank} {role}".strip(),), values[PARTS], values["wall_ns"])
        for (rank, role), values in means.iterrows()
    ]
    return _table(title, [""], rows)


def _levels(depths: Depths) -> dict[str, str]:
    """All, or live and trace where no device was traced: there are no gaps between kernels then."""
    gaps = (depths.rows["reached_ns"] != depths.rows["deep_ns"]).any()
    return {level: word for level, word in LEVELS.items() if gaps or word != "kernels"}


def _side_by_side(depths: Depths, levels: dict[str, str]) -> Table:
    means = depths.rows.groupby(["rank", "part"], sort=False)[[*LEVELS, "wall_ns"]].mean() / 1e6
    rows = []
    for rank in means.index.unique("rank"):
        own = means.loc[rank]
        for number, (level, word) in enumerate(levels.items()):
            values = own.loc[PARTS, level]
            rows.append(((str(rank) if not number else "", word), values, values.sum()))
    title = f"ms per traced decode step, {mean_of(depths.rows)}"
    return _table(title, ["rank", "level"], rows)


def _table(title: str, heads: list[str], rows: Iterable[tuple]) -> Table:
    table = titled(title, collapse_padding=False)
    for head in heads:
        table.add_column(head, no_wrap=True)
    add_parts(table, PARTS)
    for names, values, wall in rows:
        table.add_row(*names, *summed(list(values), wall))
    return table


def _agreement(depths: Depths) -> list[str]:
    lines = [f"live and trace differ by {depths.worst:.2%} of a step at most"]
    if depths.lacking:
        also = f"traced decode steps that are not compared: {len(depths.lacking)}"
        lines.append(f"{also}: a rank's trace does not have them whole, with their spans")
    for row in depths.lengths.dropna().itertuples():
        lines.append(
            f"rank {row.rank}, {row.method}: a median step takes {row.traced_ms:#.3g} ms while "
            f"it is traced, {row.measured_ms:#.3g} ms when it was measured: × {row.ratio:.2f}"
        )
    return lines


def _print_doubts(found: Deep, console: Console) -> None:
    """What no span launched, names that speak against their spans, and what was not understood.

    Also exchanges that were not matched.
    """
    lost = found.unattributed
    for rank, own in lost.groupby("rank"):
        all_ns = (found.kernels["end_ns"] - found.kernels["start_ns"])[
            found.kernels["rank"] == rank
        ]
        said = f"rank {rank}: {own['count'].sum():,} of {len(all_ns):,} kernels have no span, "
        said += f"{own['ns'].sum() / 1e6:.3f} of {all_ns.sum() / 1e6:.3f} ms"
        console.print(Text(said, "yellow"), soft_wrap=True)
    _print_list(console, lost, lambda row: f"{row['why']}: {_name(row)}")
    odd = found.disagreements
    _print_list(console, odd[~odd["expected"].astype(bool)], _speaks_against)
    if expected := int(odd.loc[odd["expected"].astype(bool), "count"].sum()):
        console.print(
            Text(f"{expected:,} kernels do both, as expected of them", "dim"), soft_wrap=True
        )
    also = [f"in the traces {found.words}"] if found.words else []
    for note in [*also, *found.notes]:
        console.print(Text(note, "yellow"), soft_wrap=True)


def _print_list(console: Console, rows: pd.DataFrame, words) -> None:
    for row in rows.head(MOST).to_dict("records"):
        text = (
            f"  {row['count']:,} × {row['ns'] / row['count'] / 1e3:,.1f} µs on rank {row['rank']}"
        )
        console.print(Text(f"{text}, {words(row)}", "dim"), soft_wrap=True)
    if len(rows) > MOST:
        console.print(Text(f"  and {len(rows) - MOST} more names", "dim"))


def _speaks_against(row: dict) -> str:
    return f"in {row['phase']} ({row['category']}), says {row['says']}: {_name(row)}"


def _name(row: dict) -> str:
    name = row["name"]
    return name if len(name) <= NAME_WIDTH else name[: NAME_WIDTH - 3] + "..."
