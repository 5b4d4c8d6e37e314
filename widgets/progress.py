"""A bar, and a sentence: what is going on, how far it is, how long it will take."""

from __future__ import annotations

import ipywidgets

from widgets.panel import build

LIVELY, DONE, BROKEN = "info", "success", "danger"


class Progress(ipywidgets.HBox):
    """Progress of the act under way."""

    def __init__(self) -> None:
        self.bar = build(ipywidgets.FloatProgress, min=0, max=1, value=0)
        self.bar.layout.width = "180px"
        self.text = ipywidgets.HTML("ready")
        super().__init__(children=[self.bar, self.text])
        self.layout.align_items = "center"

    def say(self, text: str, *, done: float | None = None, style: str = LIVELY) -> None:
        """Show a sentence, and the bar at `done` of 1 (None leaves it)."""
        self.text.value, self.bar.bar_style = text, style
        if done is not None:
            self.bar.value = done

    def show(self, stage: str, step: int, steps: int, elapsed_s: float) -> None:
        """Show how far a run is; `elapsed_s` is the wall time of the `step` steps done."""
        left = time_left_s(step, steps, elapsed_s)
        when = f" · about {duration(left)} left" if left is not None and step < steps else ""
        what = f"step {step} of {steps}" if step else ""
        self.say(" · ".join(filter(None, [stage, what])) + when, done=step / max(steps, 1))


def time_left_s(step: int, steps: int, elapsed_s: float) -> float | None:
    """Seconds that the remaining steps will take at the mean pace so far; None before any."""
    return None if step < 1 else elapsed_s / step * (steps - step)


def duration(seconds: float) -> str:
    """`95` as `1 min 35 s`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
