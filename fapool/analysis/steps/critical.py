"""Which spans and exchanges made steps as long as they were, and what they would be without."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from fapool.analysis.exchanges import Exchanges
from fapool.analysis.load import Tables
from fapool.analysis.steps.graph import step_graphs

MOST_STEPS = 32
"""Steps that a summary is of, evenly taken from all that had spans."""


@dataclass(frozen=True, kw_only=True)
class Critical:
    """Means over `steps` steps of a kind.

    `path`: rank, category, phase, layer, ms on the critical path; they sum to `wall_ms`. `without`:
    phase, ms of a step without it, saved_ms; the most first.
    """

    steps: int
    wall_ms: float
    path: pd.DataFrame
    without: pd.DataFrame

    def by_phase(self) -> pd.DataFrame:
        """rank, phase, ms of the path over all layers, the longest first; "" for gaps."""
        sums = self.path.groupby(["rank", "phase"], as_index=False)["ms"].sum()
        return sums.sort_values("ms", ascending=False, ignore_index=True)

    def sentences(self, kind: str = "decode", top: int = 3) -> list[str]:
        """The path, and the phases without which a step would be shortest, in words."""
        rows = self.by_phase().head(top).itertuples()
        shares = [
            f"rank {row.rank} {row.phase or 'nothing recorded'} {row.ms / self.wall_ms:.0%}"
            for row in rows
        ]
        said = f"critical path of a {kind} step, mean {self.wall_ms:.3f} ms: {', '.join(shares)}"
        less = [
            f"{row.phase} {row.ms:.3f} ms"
            for row in self.without.head(top).itertuples()
            if row.saved_ms > 0
        ]
        return [said, *([f"it would take without {', '.join(less)}"] if less else [])]


def critical(
    tables: Tables,
    *,
    kind: str | None = "decode",
    most: int = MOST_STEPS,
    met: Exchanges | None = None,
) -> Critical | None:
    """The critical path of a step of a kind, and what it would take without each phase.

    None where no step of the kind had spans. `met`: as of `step_graphs`.
    """
    paths, wall, saved, count = [], 0, {}, 0
    for graph in step_graphs(tables, kind=kind, most=most, met=met):
        paths.append(graph.path())
        assert graph.without(None) == graph.wall_ns, "a replay takes as long as its step did"
        wall, count = wall + graph.wall_ns, count + 1
        for phase in graph.phases():
            saved[phase] = saved.get(phase, 0) + graph.wall_ns - graph.without(phase)
    if not count or not saved:
        return None
    rows = pd.concat(paths, ignore_index=True)
    rows["ms"] = (rows["end_ns"] - rows["start_ns"]) / count / 1e6
    keys = ["rank", "category", "phase", "layer"]
    by_phase = pd.DataFrame(saved.items(), columns=["phase", "saved_ns"])
    by_phase["saved_ms"] = by_phase.pop("saved_ns") / count / 1e6
    by_phase["ms"] = wall / count / 1e6 - by_phase["saved_ms"]
    return Critical(
        steps=count,
        wall_ms=wall / count / 1e6,
        path=rows.groupby(keys, as_index=False)["ms"].sum(),
        without=by_phase.sort_values("saved_ms", ascending=False, ignore_index=True),
    )
