"""The ranks at hand: how many to start, starting them, what they are."""

from __future__ import annotations

import html
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import ipywidgets

from fapool.cluster import Ranks
from widgets.panel import build

MOST = 8
NVIDIA = Path("/proc/driver/nvidia/version")


class StartsRanks(Protocol):
    """What `Ranks.start` is to the workbench; tests give another."""

    def __call__(self, n: int, *, on_progress: Callable[[str], None]) -> Ranks: ...


class Crew(ipywidgets.HBox):
    """A slider for the number of ranks, a button that starts them, a line that names them.

    Args:
        ranks: warm ranks to use; None to start some when they are needed.
        num_ranks: how many to start, unless the slider is moved.
        factory: starts ranks.
    """

    def __init__(self, *, ranks: Ranks | None, num_ranks: int, factory: StartsRanks) -> None:
        self.ranks, self._factory = ranks, factory
        self.number = build(
            ipywidgets.IntSlider,
            description="ranks",
            tooltip="processes to start; one GPU each, or a share of the CPUs",
            min=1,
            max=max(MOST, num_ranks),
            value=ranks.n if ranks else num_ranks,
            style={"description_width": "40px"},
        )
        self.number.layout.width = "280px"
        self.start_button = build(ipywidgets.Button, description="Start ranks", icon="power-off")
        self.start_button.layout.width = "120px"
        self.about = ipywidgets.HTML()
        super().__init__(children=[self.number, self.start_button, self.about])
        self.layout.align_items = "center"
        self.describe()

    @property
    def at_hand(self) -> int:
        """Ranks that there are, or that would be started."""
        return self.ranks.n if self.ranks else self.number.value

    @property
    def device(self) -> str:
        """ "cpu" or "cuda"; before ranks are started, "cpu" unless a GPU's driver is there."""
        if self.ranks:
            return self.ranks.describe()[0]["device"].split(":")[0]
        return "cuda" if NVIDIA.exists() else "cpu"

    def devices(self) -> list[str]:
        """What each rank runs on, in words."""
        return [rank["device_name"] for rank in self.ranks.describe()] if self.ranks else []

    def start(self, n: int, on_progress: Callable[[str], None]) -> Ranks:
        """Replace the ranks at hand by `n` new ones; blocks until they are ready."""
        self.close()
        self.ranks = self._factory(n, on_progress=on_progress)
        self.number.value = n
        self.describe()
        return self.ranks

    def close(self) -> None:
        """End the ranks at hand, if there are any."""
        ranks, self.ranks = self.ranks, None
        if ranks:
            ranks.close()
        self.describe()

    def describe(self) -> None:
        """Say in the panel what there is."""
        if not self.ranks:
            self.about.value = _dim("none started yet; Run starts them (about 20 s)")
            self.start_button.description = "Start ranks"
            return
        first = self.ranks.describe()[0]
        size = f"{first['capacity_bytes'] / 2**30:.1f} GiB"
        words = f"{self.ranks.n} warm on {first['host']}: {first['device_name']}, {size}"
        self.about.value = f'<span style="color:#009E73">●</span> {_dim(words)}'
        self.start_button.description = "Restart"


def _dim(text: str) -> str:
    return f'<span style="color:var(--jp-ui-font-color2)">{html.escape(text)}</span>'
