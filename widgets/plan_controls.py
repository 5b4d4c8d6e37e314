"""Controls of how the model is laid out on the ranks at hand: FA Pool, a static grid or Helix."""

from __future__ import annotations

import ipywidgets

from fapool.errors import SpecError
from fapool.spec import FAPool, Helix, Model, Static, check_layout
from widgets.defaults import Defaults, length_steps
from widgets.panel import build
from widgets.workload_controls import SLIDER

FAPOOL, STATIC, HELIX = "FA Pool", "Static", "Helix"
OWN = ("threshold", "pool", "base", "base_attends", "pool_keys", "static", "helix")
KEYS = {  # of a leased request; what is said -> fields of the plan
    "dealt out over the pool": {},
    "dealt out, merged in nodes": {"reduction": "hierarchical"},
    "all on each pool rank": {"kv": "shared"},
}


class PlanControls(ipywidgets.VBox):
    """Threshold, pool and base of FA Pool, or one of the grids of the others that fit."""

    def __init__(self, defaults: Defaults, model: Model, ranks: int) -> None:
        self.kind = build(
            ipywidgets.ToggleButtons,
            options=[FAPOOL, STATIC, HELIX],
            style={"button_width": "84px"},  # three in the narrowest column
        )
        self.threshold = build(
            ipywidgets.SelectionSlider,
            description="threshold",
            tooltip="a request longer than this is leased to the pool",
            options=length_steps(defaults.block, defaults.longest),
            value=defaults.threshold,
        )
        self.pool = build(ipywidgets.IntSlider, description="pool ranks", min=0, max=1, value=1)
        self.base = build(ipywidgets.SelectionSlider, description="base ranks", options=[1])
        self.base_attends, self.pool_keys = _lending()
        self.static = build(
            ipywidgets.Dropdown, description="layout", options=[("TP 1 × PP 1", (1, 1))]
        )
        self.helix = build(
            ipywidgets.Dropdown, description="layout", options=[("KVP 1 × TP 1", (1, 1))]
        )
        self.fields = {"plan": self.kind, **{name: getattr(self, name) for name in OWN}}
        for name in OWN:
            self.fields[name].style = SLIDER
            self.fields[name].layout.width = "98%"
        self.kind.observe(lambda _change: self._show(), "value")
        self.base.observe(lambda _change: self._limit_pool(), "value")
        super().__init__()
        self.fit(model, ranks)
        self.pool.value = self.pool.max
        self.static.index = self.helix.index = 0  # the widest
        self._show()

    def plan(self) -> FAPool | Static | Helix:
        """What the controls say."""
        if self.kind.value == STATIC:
            tp, pp = self.static.value
            return Static(tp=tp, pp=pp)
        if self.kind.value == HELIX:
            kvp, tp = self.helix.value
            return Helix(kvp=kvp, tp=tp)
        return FAPool(
            base=self.base.value,
            pool=self.pool.value,
            threshold=self.threshold.value,
            base_attends=self.base_attends.value and self.pool.value > 0,
            **(KEYS[self.pool_keys.value] if self.pool.value else {}),
        )

    def fit(self, model: Model, ranks: int) -> None:
        """Offer only what `ranks` ranks and the model's sizes allow; keep what still fits."""
        self._ranks = ranks
        spread = self.pool.value == self.pool.max
        _offer(self.static, "TP {} × PP {}", static_grids(model, ranks))
        _offer(self.helix, "KVP {} × TP {}", helix_grids(model, ranks))
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
        own = {
            FAPOOL: [self.threshold, self.pool, self.base, self.base_attends, self.pool_keys],
            STATIC: [self.static],
            HELIX: [self.helix],
        }
        self.children = [self.kind, *own[self.kind.value]]


def _lending() -> tuple[ipywidgets.Checkbox, ipywidgets.Dropdown]:
    """What becomes of a leased request's keys."""
    base_attends = build(
        ipywidgets.Checkbox,
        description="base attends too",
        tooltip="the base keeps a share of a leased request's keys and attends beside the pool",
    )
    pool_keys = build(
        ipywidgets.Dropdown,
        description="keys",
        tooltip="where a leased request's keys lie, and where partial results are merged",
        options=list(KEYS),
    )
    return base_attends, pool_keys


def static_grids(model: Model, ranks: int) -> list[tuple[int, int]]:
    """(tp, pp) that divide the model and take at most `ranks` ranks; the widest TP first."""
    grids = [
        (tp, pp)
        for tp in range(ranks, 0, -1)
        for pp in range(1, ranks // tp + 1)
        if _divides(model, Static(tp=tp, pp=pp))
    ]
    return sorted(grids, key=lambda grid: (-grid[0] * grid[1], -grid[0]))


def helix_grids(model: Model, ranks: int) -> list[tuple[int, int]]:
    """(kvp, tp) that divide the model and take at most `ranks` ranks; the widest KVP first."""
    grids = [
        (kvp, tp)
        for kvp in range(1, ranks + 1)
        for tp in range(1, ranks // kvp + 1)
        if _divides(model, Helix(kvp=kvp, tp=tp))
    ]
    return sorted(grids, key=lambda grid: (-grid[0] * grid[1], -grid[0]))


def _offer(field: ipywidgets.Dropdown, label: str, grids: list[tuple[int, int]]) -> None:
    """Offer these grids; keep the one that is chosen where it still fits."""
    kept = field.value
    field.options = [(label.format(*grid), grid) for grid in grids]
    field.value = kept if kept in grids else grids[0]


def _divides(model: Model, plan: FAPool | Static | Helix) -> bool:
    try:
        check_layout(model, plan)
    except SpecError:
        return False
    return True
