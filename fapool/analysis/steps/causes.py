"""Why steps are as long as they are, across ranks: clocks, waits, critical path; of one kind."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from fapool.analysis.clocks import Clocks, clocks
from fapool.analysis.kinds import usual
from fapool.analysis.steps.critical import Critical, critical
from fapool.analysis.steps.stragglers import sentences, stragglers, waits
from fapool.analysis.study import Study


@dataclass(frozen=True, kw_only=True)
class Causes:
    """Of decode steps; of prefill where there are none. `ranks`: rank and role of all."""

    kind: str
    ranks: pd.DataFrame
    stragglers: pd.DataFrame
    critical: Critical | None
    clocks: Clocks | None

    def words(self) -> list[str]:
        """The three longest waits, the critical path, and how sure the clocks are of it."""
        said = sentences(self.stragglers, self.kind)
        said += self.critical.sentences(self.kind) if self.critical else []
        return said + ([self.clocks.words, *self.clocks.notes] if self.clocks else [])


def causes(found: Study) -> Causes:
    """What made the steps of a run as long as they are."""
    steps, parted = found.tables.steps, found.parted
    kind = usual(parted.steps)
    return Causes(
        kind=kind,
        ranks=steps[["rank", "role"]].drop_duplicates("rank").sort_values("rank"),
        stragglers=stragglers(waits(found.tables, parted, found.met), parted, kind),
        critical=critical(found.tables, kind=kind, met=found.met),
        clocks=clocks(found.run, found.tables, found.met),
    )
