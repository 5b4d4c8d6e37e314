"""Controls of how the model is laid out: FA Pool or a static grid, within the ranks at hand."""

from __future__ import annotations

import ipywidgets

from fapool.errors import SpecError
from fapool.spec import FAPool, Model, Static, check_layout
from widgets.defaults import Defaults, length_steps
from widgets.panel import build
from widgets.workload_controls import SLIDER

FAPOOL, STATIC = "FA Pool", "Static"


class PlanControls(ipywidgets.VBox):
    """Threshold, pool and base of FA Pool, or one of the static grids that fit."""

    def __init__(self, defaults: Defaults, model: Model, ranks: int) -> None:
        self.kind = build(ipywidgets.ToggleButtons, options=[FAPOOL, STATIC])
        self.threshold = build(
            ipywidgets.SelectionSlider,
            description="threshold",
            tooltip="a request longer than this is leased to the pool",
            options=length_steps(defaults.block, defaults.longest),
            value=defaults.threshold,
        )
        self.pool = build(ipywidgets.IntSlider, description="pool ranks", min=0, max=1, value=1)
        self.base = build(ipywidgets.SelectionSlider, description="base ranks", options=[1])
        self.static = build(
            ipywidgets.Dropdown, description="layout", options=[("TP 1 × PP 1", (1, 1))]
        )
        self.fields = {
            "plan": self.kind,
            **{name: getattr(self, name) for name in ("threshold", "pool", "base", "static")},
        }
        for name in ("threshold", "pool", "base", "static"):
            self.fields[name].style = SLIDER
            self.fields[name].layout.width = "98%"
        self.kind.observe(lambda _change: self._show(), "value")
        self.base.observe(lambda _change: self._limit_pool(), "value")
        super().__init__()
        self.fit(model, ranks)
        self.pool.value = self.pool.max
        self.static.index = 0  # the widest
        self._show()

    def plan(self) -> FAPool | Static:
        """What the controls say."""
        if self.kind.value == STATIC:
            tp, pp = self.static.value
            return Static(tp=tp, pp=pp)
        return FAPool(base=self.base.value, pool=self.pool.value, threshold=self.threshold.value)

    def fit(self, model: Model, ranks: int) -> None:
        """Offer only what `ranks` ranks and the model's sizes allow; keep what still fits."""
        self._ranks = ranks
        grids = static_grids(model, ranks)
        kept, spread = self.static.value, self.pool.value == self.pool.max
        self.static.options = [(f"TP {tp} × PP {pp}", (tp, pp)) for tp, pp in grids]
        self.static.value = kept if kept in grids else grids[0]
        bases = [tp for tp in range(1, ranks + 1) if _divides(model, FAPool(base=tp))]
        base = self.base.value if self.base.value in bases else bases[0]
        self.base.options, self.base.value = bases, base
        self._limit_pool()
        if spread:
            self.pool.value = self.pool.max

    def adopt(self, defaults: Defaults) -> None:
        """Offer the thresholds that suit another kind of device."""
        self.threshold.options = length_steps(defaults.block, defaults.longest)
        self.threshold.value = defaults.threshold

    def _limit_pool(self) -> None:
        self.pool.max = self._ranks - self.base.value

    def _show(self) -> None:
        fapool = self.kind.value == FAPOOL
        own = [self.threshold, self.pool, self.base] if fapool else [self.static]
        self.children = [self.kind, *own]


def static_grids(model: Model, ranks: int) -> list[tuple[int, int]]:
    """(tp, pp) that divide the model and take at most `ranks` ranks; the widest TP first."""
    grids = [
        (tp, pp)
        for tp in range(ranks, 0, -1)
        for pp in range(1, ranks // tp + 1)
        if _divides(model, Static(tp=tp, pp=pp))
    ]
    return sorted(grids, key=lambda grid: (-grid[0] * grid[1], -grid[0]))


def _divides(model: Model, plan: FAPool | Static) -> bool:
    try:
        check_layout(model, plan)
    except SpecError:
        return False
    return True
