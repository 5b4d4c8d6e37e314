"""Controls of what is to be generated: equal requests, or lengths sampled from a trace."""

from __future__ import annotations

from pathlib import Path

import ipywidgets

from fapool.errors import SpecError
from fapool.spec import TraceWorkload, Workload
from widgets.defaults import Defaults, length_steps
from widgets.panel import build

FIXED, TRACE = "Equal requests", "From a trace"
SLIDER = {"description_width": "116px"}


class WorkloadControls(ipywidgets.VBox):
    """Sequence length, batch and output; or a trace file, a sample of it and a length scale."""

    def __init__(self, defaults: Defaults) -> None:
        self.kind = build(ipywidgets.ToggleButtons, options=[FIXED, TRACE])
        self.context = build(
            ipywidgets.SelectionSlider,
            description="sequence length",
            tooltip="prompt tokens of each request; `context` in a spec",
            options=length_steps(defaults.shortest, defaults.longest),
            value=defaults.context,
        )
        self.output = _count("output tokens", 2, 512, defaults.output)
        self.batch = _count("batch", 1, 64, defaults.batch)
        self.sample = _count("requests", 1, 256, 12)
        self.path = build(
            ipywidgets.Text,
            description="trace file",
            placeholder="Azure .csv or Mooncake .jsonl",
            continuous_update=False,
        )
        self.length_scale = build(
            ipywidgets.FloatLogSlider,
            description="length scale",
            tooltip="lengths and threshold are multiplied by this",
            **{"min": -3, "max": 0, "step": 0.1, "value": 1.0, "readout_format": ".3f"},
        )
        self.fields = {
            "workload": self.kind,
            **{name: getattr(self, name) for name in _FIELDS},
        }
        for name in _FIELDS:
            getattr(self, name).style = SLIDER
            getattr(self, name).layout.width = "98%"
        self.kind.observe(lambda _change: self._show(), "value")
        super().__init__()
        self._show()

    def workload(self) -> Workload | TraceWorkload:
        """What the controls say.

        Raises:
            SpecError: no trace file is named.
        """
        if self.kind.value == FIXED:
            return Workload(
                batch=self.batch.value, context=self.context.value, output=self.output.value
            )
        if not self.path.value.strip():
            raise SpecError("trace file", "", "name an Azure .csv or a Mooncake .jsonl file")
        return TraceWorkload(
            path=Path(self.path.value.strip()).expanduser(),
            sample=self.sample.value,
            batch=self.batch.value,
            length_scale=self.length_scale.value,
            max_output=self.output.value,
        )

    def adopt(self, defaults: Defaults) -> None:
        """Offer the lengths that suit another kind of device."""
        self.context.options = length_steps(defaults.shortest, defaults.longest)
        self.context.value, self.batch.value = defaults.context, defaults.batch
        self.output.value = defaults.output

    def _show(self) -> None:
        fixed = self.kind.value == FIXED
        own = [self.context] if fixed else [self.path, self.sample, self.length_scale]
        self.output.description = "output tokens" if fixed else "output at most"
        self.children = [self.kind, *own, self.batch, self.output]


_FIELDS = ("context", "output", "batch", "path", "sample", "length_scale")


def _count(words: str, least: int, most: int, value: int) -> ipywidgets.IntSlider:
    return build(ipywidgets.IntSlider, description=words, min=least, max=most, value=value)
