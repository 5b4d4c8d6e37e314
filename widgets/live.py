"""The live picture of a run: time and memory of every rank, TPOT over time.

A frame is one binary trait, complete in itself: a page that opens late shows the newest one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import anywidget
import traitlets

from fapool.figures.style import COLOURS, OWNER_COLOURS
from widgets.feed import CATEGORIES, PARTS, Feed

_STATIC = Path(__file__).parent / "static"


class Live(anywidget.AnyWidget):
    """Stacked bars of time and memory per rank, and a line of TPOT.

    Args:
        ranks: (role, device) of each rank in order; what the bars are labelled with.
    """

    _esm = _STATIC / "live.js"
    _css = _STATIC / "live.css"

    ranks = traitlets.List(traitlets.Dict()).tag(sync=True)
    time_keys = traitlets.List(traitlets.List()).tag(sync=True)
    memory_keys = traitlets.List(traitlets.List()).tag(sync=True)
    frame = traitlets.Bytes(b"").tag(sync=True)
    stage = traitlets.Unicode("no run yet").tag(sync=True)

    def __init__(self, ranks: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(
            time_keys=[[c.value, COLOURS[c]] for c in CATEGORIES],
            memory_keys=[[part, OWNER_COLOURS[part]] for part in PARTS],
        )
        self.expect(ranks)

    def expect(self, ranks: Sequence[tuple[str, str]], stage: str = "no run yet") -> None:
        """Empty the picture and label it for the ranks of the next run."""
        self.frame = b""
        self.ranks = [{"role": str(role), "device": device} for role, device in ranks]
        self.stage = stage

    def show(self, feed: Feed) -> None:
        """Show what the feed holds now."""
        self.stage = feed.progress[0]
        self.frame = feed.frame()
