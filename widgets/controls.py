"""All that a user chooses of a run, as one RunSpec."""

from __future__ import annotations

import html
from typing import Any

import ipywidgets

from fapool.errors import FapoolError
from fapool.spec import Capture, FAPool, Helix, Model, RunSpec, Workload
from fapool.topology import check_ranks
from widgets.defaults import DEFAULTS, length_label
from widgets.panel import Panel, build
from widgets.plan_controls import PlanControls
from widgets.workload_controls import SLIDER, WorkloadControls

BASE_COLOUR, POOL_COLOUR = "#2f7f9f", "#d98a52"
_SQUARE = (
    '<span title="rank {rank}: {role}" style="display:inline-block;width:20px;height:20px;'
    "margin-right:3px;border-radius:3px;text-align:center;line-height:20px;font-size:11px;"
    'color:{text};background:{fill};border:1px solid {edge}">{rank}</span>'
)


class Controls(Panel):
    """Workload, plan and model side by side, and a line that says what they amount to.

    Args:
        ranks: how many ranks there are, or will be.
        device: "cpu" or "cuda"; decides which sizes are offered.
    """

    def __init__(self, *, ranks: int = 1, device: str = "cpu") -> None:
        self._ranks, self._device = ranks, device
        defaults = DEFAULTS[device]
        self.model = build(
            ipywidgets.Dropdown, description="model", options=defaults.models, style=SLIDER
        )
        self.backend = build(
            ipywidgets.Dropdown, description="attention", options=defaults.backends, style=SLIDER
        )
        self.repeats = build(
            ipywidgets.IntSlider, description="repeats", min=1, max=10, value=1, style=SLIDER
        )
        self.profile_steps = build(
            ipywidgets.IntSlider,
            description="traced steps",
            tooltip="decode steps recorded by torch.profiler, for Perfetto and TensorBoard",
            min=0,
            max=16,
            value=4,
            style=SLIDER,
        )
        self.workload = WorkloadControls(defaults)
        self.plan = PlanControls(defaults, Model.preset(self.model.value), ranks)
        own = {name: getattr(self, name) for name in _FIELDS}
        self.fields = {**self.workload.fields, **self.plan.fields, **own}
        self.verdict = ipywidgets.HTML()
        super().__init__([self._grid(own), self.verdict])
        self.model.observe(lambda _change: self.fit(self._ranks, self._device), "value")
        for field in self.fields.values():
            field.observe(lambda _change: self._judge(), "value")
        self._judge()

    def spec(self) -> RunSpec:
        """The spec that the controls stand for.

        Raises:
            SpecError: they contradict each other, or take more ranks than there are.
        """
        defaults = DEFAULTS[self._device]
        spec = RunSpec(
            model=Model.preset(self.model.value),
            plan=self.plan.plan(),
            workload=self.workload.workload(),
            backend=self.backend.value,
            device=self._device,
            block=defaults.block,
            prefill_chunk=defaults.prefill_chunk,
            repeats=self.repeats.value,
            capture=Capture(profile_steps=self.profile_steps.value),
        )
        check_ranks(spec, self._ranks)
        return spec

    def set(self, **values: Any) -> None:
        """Move controls by name, as a hand on the panel would.

        Raises:
            TypeError: there is no control of that name.
        """
        if unknown := sorted(values.keys() - self.fields.keys()):
            names = ", ".join(self.fields)
            raise TypeError(f"no control {', '.join(unknown)}; there are {names}")
        for name, value in values.items():
            self.fields[name].value = value

    def fit(self, ranks: int, device: str) -> None:
        """Follow the ranks at hand: limits of the pool, grids that fit, sizes that suit."""
        changed, self._ranks, self._device = device != self._device, ranks, device
        if changed:
            defaults = DEFAULTS[device]
            self.model.options, self.backend.options = defaults.models, defaults.backends
            self.workload.adopt(defaults)
            self.plan.adopt(defaults)
        self.plan.fit(Model.preset(self.model.value), ranks)
        self._judge()

    def _grid(self, own: dict[str, ipywidgets.Widget]) -> ipywidgets.GridBox:
        for field in own.values():
            field.layout.width = "98%"
        columns = [("Workload", self.workload), ("Plan", self.plan)]
        columns.append(("Model and record", ipywidgets.VBox([*own.values()])))
        boxes = [ipywidgets.VBox([_heading(title), box]) for title, box in columns]
        layout = build(
            ipywidgets.Layout,
            grid_template_columns="repeat(auto-fit, minmax(290px, 1fr))",
            grid_gap="0 20px",
            margin="4px 0",
        )
        return build(ipywidgets.GridBox, children=boxes, layout=layout)

    def _judge(self) -> None:
        try:
            said = describe(self.spec())
        except FapoolError as error:
            said = f'<span style="color:#D55E00">⚠ {html.escape(str(error))}</span>'
        plan = self.plan.plan()
        base = plan.base if isinstance(plan, FAPool) else plan.world
        strip = "".join(_square(rank, base, plan.world) for rank in range(self._ranks))
        self.verdict.value = (
            '<div style="display:flex;gap:10px;align-items:center;line-height:1.4">'
            f'<span style="white-space:nowrap">{strip}</span><span>{said}</span></div>'
        )


_FIELDS = ("model", "backend", "repeats", "profile_steps")


def describe(spec: RunSpec) -> str:
    """What will happen to the requests of a spec, in one sentence of HTML."""
    plan, work = spec.plan, spec.workload
    if isinstance(plan, Helix):
        keys = (
            f"{plan.kvp} ranks share its keys by sequence" if plan.kvp > 1 else "no keys are shared"
        )
        return f"<b>{plan}</b>: {keys}; {plan.world} share each layer. Every request runs on all."
    if not isinstance(plan, FAPool):
        tp = f"{plan.tp} ranks share each layer" if plan.tp > 1 else "no layer is shared"
        pp = f"{plan.pp} stages of layers" if plan.pp > 1 else "one stage"
        return f"<b>{plan}</b>: {tp}; {pp}. Every request runs on all of its ranks."
    if not plan.pool:
        return f"<b>{plan}</b>: no pool, so nothing is ever leased."
    both = " The base attends beside it." * plan.base_attends
    both += " Each pool rank has all of its keys." * (plan.kv == "shared")
    both += " Partials are merged in each node first." * (plan.reduction == "hierarchical")
    lent = f"leased to the pool past {length_label(spec.threshold)} tokens"
    if not isinstance(work, Workload):
        return f"<b>{plan}</b>: requests are {lent}.{both}"
    last = work.context + work.output - 1
    if last <= spec.threshold:
        return f"<b>{plan}</b>: requests end at {last} tokens; the pool is never touched."
    when = "while they are read" if work.context > spec.threshold else "while they generate"
    return f"<b>{plan}</b>: requests are {lent}, {when}.{both}"


def _heading(title: str) -> ipywidgets.HTML:
    return ipywidgets.HTML(f'<b style="font-size:13px">{title}</b>')


def _square(rank: int, base: int, world: int) -> str:
    role, fill = ("base", BASE_COLOUR) if rank < base else ("pool", POOL_COLOUR)
    if rank >= world:
        role, fill = "not used by this plan", "transparent"
    text = "#fff" if rank < world else "var(--jp-ui-font-color2)"
    edge = fill if rank < world else "var(--jp-border-color1)"
    return _SQUARE.format(rank=rank, role=role, fill=fill, text=text, edge=edge)
