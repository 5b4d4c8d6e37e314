"""What has been measured: the run shown, the runs of the store, the files of a run."""

from __future__ import annotations

import html
from pathlib import Path

import ipywidgets

from fapool.errors import FapoolError, StoreError
from fapool.figures.report import write_report
from fapool.store import Run, Store
from widgets import reading
from widgets.exports import describe_exports, exported
from widgets.panel import Panel, build
from widgets.pictures import figure_image, in_rows
from widgets.runs_table import RunsTable

TITLES = ("Result", "Runs", "Files")
NEWEST = 4
"""Runs that are compared where none are named."""


class Result(ipywidgets.VBox):
    """The headline and the figures of one run; says so where there is none."""

    def show(self, run: Run | None) -> None:
        """Show this run."""
        if run is None:
            self.children = [ipywidgets.HTML("No finished run yet: press Run.")]
            return
        try:
            headline, figures = reading.result(run)
        except StoreError as error:  # it ended before anything was measured
            self.children = [ipywidgets.HTML(html.escape(str(error)))]
            return
        self.children = [ipywidgets.HTML(headline), in_rows(map(figure_image, figures))]


class Comparison(ipywidgets.VBox):
    """A table and a figure of some runs side by side; says so where there are too few."""

    def __init__(self, runs: list[Run]) -> None:
        super().__init__()
        self.show(runs)

    def show(self, runs: list[Run]) -> None:
        """Compare these runs."""
        if len(runs) < 2:
            hint = "Tick two or more finished runs, then press Compare."
            self.children = [ipywidgets.HTML(hint)]
            return
        table, figure = reading.comparison(runs)
        self.children = [in_rows([ipywidgets.HTML(table), figure_image(figure)])]


class Shelf(Panel):
    """Tabs: the figures of a run, the table of runs with a comparison, the exported files."""

    def __init__(self, store: Store) -> None:
        self.store, self.shown = store, None
        self.result = Result()
        self.result.show(None)
        self.table = RunsTable(reading.COLUMNS, figures=reading.MEASURED)
        self.compare_button = build(ipywidgets.Button, description="Compare", icon="bar-chart")
        self.compare_button.on_click(self.loudly(self.compare))
        self.open_button = build(ipywidgets.Button, description="Open", icon="folder-open")
        self.open_button.on_click(self.loudly(self.open_ticked))
        self.refresh_button = build(ipywidgets.Button, description="Refresh", icon="refresh")
        self.refresh_button.on_click(self.loudly(self.refresh))
        self.comparison = Comparison([])
        self.files = ipywidgets.HTML("Nothing exported yet: press Export.")
        buttons = [self.compare_button, self.open_button, self.refresh_button]
        bar = build(ipywidgets.HBox, children=buttons)
        runs = build(ipywidgets.VBox, children=[self.table, bar, self.comparison])
        self.tabs = build(ipywidgets.Tab, children=[self.result, runs, self.files], titles=TITLES)
        super().__init__([self.tabs])
        self._cells: dict[str, tuple[str, ...]] = {}
        self.refresh()

    def refresh(self) -> None:
        """Read the store anew; a run that has ended is read once."""
        rows = []
        for run in reversed(self.store.runs()):
            if run.status.state == "started" or run.name not in self._cells:
                self._cells[run.name] = reading.cells(run)
            rows.append((run.name, self._cells[run.name]))
        self.table.fill(rows)

    def show(self, run: Run) -> None:
        """Show the figures of a run that has ended."""
        self.shown = run
        self.result.show(run)
        self.tabs.selected_index = 0

    def breakdown(self, name: str | None = None) -> Result:
        """Show a run by name; None: the newest that finished. Shown here and returned."""
        newest = self._newest()
        made, run = Result(), None
        if name or newest:
            run = self.store.open(name or newest[0])
            self.show(run)
        made.show(run)
        return made

    def open_ticked(self) -> None:
        """Show the one run that is ticked.

        Raises:
            FapoolError: none is ticked, or several are.
        """
        if len(self.table.selected) != 1:
            raise FapoolError(f"{len(self.table.selected)} runs are ticked; tick the one to open")
        self.breakdown(self.table.selected[0])

    def compare(self, names: list[str] | None = None) -> Comparison:
        """Compare runs by name; None: those ticked, else the newest. Shown here and returned."""
        self.refresh()
        names = names or list(self.table.selected) or self._newest()
        runs = [self.store.open(name) for name in names]
        if names:
            self.table.selected = [row["key"] for row in self.table.rows if row["key"] in names]
            self.tabs.selected_index = 1
        self.comparison.show(runs)
        return Comparison(runs)

    def pick(self, name: str | None) -> Run:
        """The run of that name; None: the run shown, or the newest if only that has finished.

        Raises:
            StoreError: there is none, or the run shown is gone.
        """
        if name is not None:
            return self.store.open(name)
        shown = self.shown
        if shown is not None and not (shown.path / "status.json").exists():
            way_out = "tick another under Runs and press Open, or export one by its name"
            raise StoreError(f"{shown.name} is shown, but its folder is gone; {way_out}")
        if shown is not None and shown.status.state == "finished":
            return shown
        if newest := self._newest():
            return self.store.open(newest[0])
        if shown is None:
            raise StoreError("no finished run in the store; press Run first")
        return shown

    def export(self, run: Run) -> list[Path]:
        """Write the report of a run that finished into its folder; the report and the traces."""
        if run.status.state == "finished":
            write_report([run], run.path / "report.html")
        self.files.value = describe_exports(run)
        self.tabs.selected_index = 2
        return exported(run)

    def _newest(self) -> list[str]:
        ended = [run for run in self.store.runs() if run.status.state == "finished"]
        return [run.name for run in reversed(ended)][:NEWEST]
