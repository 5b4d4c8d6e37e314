"""The workbench: choose, run, watch, compare, export. Buttons call methods; methods return at once.

What takes time happens on a thread of its own (`Activity`) and in the ranks; callbacks only set
traits. `wait` is for scripts and tests.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import ipywidgets

from fapool.cluster import Execution, Ranks, check_number
from fapool.errors import FapoolError
from fapool.phases import Role
from fapool.spec import FAPool, RunSpec
from fapool.store import Run, Store
from widgets.activity import Activity
from widgets.controls import Controls
from widgets.crew import Crew, StartsRanks
from widgets.feed import Feed
from widgets.live import Live
from widgets.panel import Panel, build
from widgets.progress import BROKEN, DONE, Progress, duration
from widgets.shelf import Comparison, Result, Shelf

DRAW_EVERY_S = 0.08


class Workbench(Panel):
    """Everything in one panel; `wait` blocks, nothing else does.

    Args:
        store: where runs are kept; None for the store that `Store()` finds.
        ranks: warm ranks to use; None to start them here.
        num_ranks: how many to start when none are given.
        ranks_factory: starts them.
    """

    def __init__(
        self,
        *,
        store: Store | Path | str | None = None,
        ranks: Ranks | None = None,
        num_ranks: int = 4,
        ranks_factory: StartsRanks = Ranks.start,
    ) -> None:
        self.store = store if isinstance(store, Store) else Store(store)
        self.crew = Crew(ranks=ranks, num_ranks=num_ranks, factory=ranks_factory)
        self.controls = Controls(ranks=self.crew.at_hand, device=self.crew.device)
        self.live, self.progress, self.shelf = Live(), Progress(), Shelf(self.store)
        self._activity = Activity(self._fail, self._set_busy)
        self._execution: Execution | None = None
        self._feed, self._drawn_s, self._began_s = Feed(), 0.0, 0.0
        self.run_button = _button("Run", "play", "primary", "run what the controls say")
        self.stop_button = _button("Stop", "stop", "", "end the run within a few steps")
        self.export_button = _button("Export", "download", "", "write report.html, list the traces")
        buttons = [self.run_button, self.stop_button, self.export_button, self.progress]
        bar = build(ipywidgets.HBox, children=buttons)
        bar.layout.align_items = "center"
        super().__init__([self.crew, self.controls, bar, self.live, self.shelf], trouble_at=3)
        self._wire()
        self._expect()

    def spec(self) -> RunSpec:
        """What the controls say.

        Raises:
            SpecError: it cannot be.
        """
        return self.controls.spec()

    def set(self, **values: Any) -> None:
        """Move controls by name: `set(context=4096, plan="Static", static=(4, 1))`."""
        self.controls.set(**values)

    def start_ranks(self, n: int | None = None) -> None:
        """Start `n` ranks (None: what the slider says) in place of those at hand.

        Raises:
            SpecError: `n` is no number of ranks; those at hand stay.
            FapoolError: something else is under way.
        """
        number = self.crew.number.value if n is None else n
        check_number(number)
        self._activity.begin("starting ranks", lambda: self._start(number))

    def run(self, spec: RunSpec | None = None) -> None:
        """Run `spec` (None: what the controls say); starts ranks if there are none.

        Raises:
            SpecError: it cannot be.
            FapoolError: something else is under way.
        """
        assumed = self.crew.device if spec is None else None
        spec = spec or self.spec()
        self._activity.begin("the run", lambda: self._run(spec, assumed))

    def stop(self) -> None:
        """End the run after the step that it is in.

        Raises:
            FapoolError: none goes on.
        """
        if self._execution is None or self._execution.done:
            raise FapoolError("no run goes on; nothing to stop")
        self._execution.stop()
        self.progress.say("stopping within a few steps")

    def export(self, name: str | None = None) -> None:
        """Write a run's report and list its files; a run that did not finish has traces alone.

        None: the run shown if it has finished, else the newest that has, else the run shown.

        Raises:
            StoreError: there is no such run.
            FapoolError: something else is under way.
        """
        run = self.shelf.pick(name)
        self._activity.begin("the export", lambda: self._export(run))

    def compare(self, names: list[str] | None = None) -> Comparison:
        """Compare runs by name; None: those ticked, else the newest. Returns a panel of its own."""
        return self.shelf.compare(names)

    def breakdown(self, name: str | None = None) -> Result:
        """Figures of a run by name; None: the newest that finished. Returns a panel of its own."""
        return self.shelf.breakdown(name)

    def wait(self, timeout_s: float | None = None) -> Any:
        """Block until the act under way has ended; what it made, a `Run` for `run`.

        Raises:
            TimeoutError: it is still under way.
            Exception: what it raised.
        """
        return self._activity.wait(timeout_s)

    def close_ranks(self) -> None:
        """End the ranks."""
        self.crew.close()

    def _start(self, n: int) -> Ranks:
        self.progress.say(f"starting {n} ranks", done=0)
        ranks = self.crew.start(n, self.progress.say)
        self.controls.fit(ranks.n, self.crew.device)
        self.progress.say(f"{n} ranks are ready", done=0, style=DONE)
        return ranks

    def _run(self, spec: RunSpec, assumed: str | None) -> Run:
        ranks = self.crew.ranks or self._start(self.crew.number.value)
        if assumed not in (None, self.crew.device):
            raise FapoolError(
                f"the ranks run on {self.crew.device}, so other sizes are on offer now: "
                "look at the controls and press Run again"
            )
        self._feed, self._drawn_s, self._began_s = Feed(), 0.0, time.monotonic()
        self._expect(spec)
        self.progress.say("loading", done=0)
        self._execution = ranks.run(spec, self.store)
        self._execution.add_listener(self._follow)
        try:
            run = self._execution.wait()
        finally:
            self.shelf.loudly(self.shelf.refresh)()  # must not hide why the run failed
        took = duration(time.monotonic() - self._began_s)
        self.progress.say("drawing the result", done=1)
        self.shelf.show(run)
        self.progress.say(f"{run.status.state} in {took}: {run.name}", done=1, style=DONE)
        return run

    def _export(self, run: Run) -> list[Path]:
        self.progress.say(f"writing the report of {run.name}")
        files = self.shelf.export(run)
        self.progress.say(f"exported {run.name}", done=1, style=DONE)
        return files

    def _follow(self, execution: Execution) -> None:
        """Show the newest samples; on the supervisor's thread."""
        now = time.monotonic()
        if now - self._drawn_s < DRAW_EVERY_S and not execution.done:
            return
        self._drawn_s = now
        try:
            self._feed.add(execution.samples())
            self.live.show(self._feed)
            if not execution.done:
                self.progress.show(*self._feed.progress, self._feed.wall_s)
        except Exception as error:
            self.report(error)

    def _expect(self, spec: RunSpec | None = None) -> None:
        """Label the live picture for the plan about to run."""
        try:
            plan = (spec or self.spec()).plan
        except FapoolError:
            return
        base = plan.base if isinstance(plan, FAPool) else plan.world
        devices = self.crew.devices() or ["not started"] * plan.world
        roles = [Role.BASE if rank < base else Role.POOL for rank in range(plan.world)]
        self.live.expect(list(zip(roles, devices, strict=False)))

    def _fail(self, error: BaseException) -> None:
        self.progress.say(f"{self._activity.name} failed", style=BROKEN)
        self.report(error)

    def _set_busy(self, busy: bool) -> None:
        self.run_button.disabled = self.export_button.disabled = busy
        self.crew.start_button.disabled = self.crew.number.disabled = busy
        self.stop_button.disabled = not busy

    def _wire(self) -> None:
        self.stop_button.disabled = True
        self.run_button.on_click(self.loudly(self.run))
        self.stop_button.on_click(self.loudly(self.stop))
        self.export_button.on_click(self.loudly(self.export))
        self.crew.start_button.on_click(self.loudly(self.start_ranks))
        moved = self.loudly(lambda: self.controls.fit(self.crew.at_hand, self.crew.device))
        self.crew.number.observe(moved, "value")


def _button(label: str, icon: str, style: str, tooltip: str) -> ipywidgets.Button:
    made = build(
        ipywidgets.Button, description=label, icon=icon, button_style=style, tooltip=tooltip
    )
    made.layout.width = "96px"
    return made
