"""How sure a run is of its clock, and how many waits it could not have parted so finely."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fapool.analysis import exchanges
from fapool.analysis.exchanges import Exchanges
from fapool.analysis.load import Tables
from fapool.errors import StoreError
from fapool.store import Run
from fapool.traces import shifts


@dataclass(frozen=True, kw_only=True)
class Clocks:
    """Of each rank, ns: what its times may be off against rank 0's host; two differ by the sum.

    `splits` of waits between waiting and transferring were made; `close` of them lie nearer to an
    end of their wait than the two ranks' clocks are known. `impossible` waits ended before what
    they were for, by more than that: a clock is worse than it states. `notes` as the ranks left
    them.
    """

    uncertainty_ns: dict[int, int]
    splits: int
    close: int
    impossible: int
    notes: list[str]

    @property
    def words(self) -> str:
        """`clocks of two ranks agree within 4.1 µs; 3 of 80 splits lie within that`."""
        worst = _of_two(self.uncertainty_ns.values())
        said = "all ranks read one clock"
        if worst and len(self.uncertainty_ns) == 1:
            (rank,) = self.uncertainty_ns
            said = f"the clock of rank {rank} is known within {worst / 1e3:,.1f} µs"
        elif worst:
            said = f"clocks of two ranks agree within {worst / 1e3:,.1f} µs"
        if worst and self.splits:
            said += (
                f"; {self.close} of {self.splits} splits of a wait lie within the clocks' "
                "uncertainty"
            )
        if self.impossible:
            said += f"; {self.impossible} waits ended before what they were for: it is larger"
        return said


def clocks(run: Run, tables: Tables, met: Exchanges | None = None) -> Clocks | None:
    """What the ranks recorded of their clocks; None if they did not.

    `met`: the exchanges of the tables' events, where they were matched before.
    """
    known = _ranks(run)
    if not known:
        return None
    unsure = {rank: int(clock["uncertainty_ns"]) for rank, clock in known.items()}
    splits, close, impossible = _splits(tables, met or exchanges.match(tables.events), unsure)
    notes = [f"rank {rank}: {note}" for rank, clock in known.items() for note in clock["notes"]]
    return Clocks(
        uncertainty_ns=unsure, splits=splits, close=close, impossible=impossible, notes=notes
    )


def words_of_traces(run: Run) -> str | None:
    """How sure a run is of its traces' times on rank 0's clock; None if it does not say of two."""
    unsure = []
    for clock in _ranks(run).values():
        parts = [clock.get("host"), clock.get("profiler")]
        if all(isinstance(part, dict) and "uncertainty_ns" in part for part in parts):
            unsure.append(sum(int(part["uncertainty_ns"]) for part in parts))
    if len(unsure) < 2:
        return None
    worst = _of_two(unsure) / 1e3
    return f"on rank 0's clock, on which the traces of two ranks agree within {worst:,.1f} µs"


def _of_two(unsure_ns: Iterable[int]) -> int:
    """How far two ranks' clocks may be apart at worst."""
    return sum(sorted(unsure_ns)[-2:])


def shifts_of(run: Run) -> dict[int, int]:
    """`traces.shifts` of a run; empty where it left no environment that can be read."""
    try:
        return shifts(run.environment)
    except StoreError:
        return {}


def _ranks(run: Run) -> dict[int, dict[str, Any]]:
    with_clock = [entry for entry in run.ranks if isinstance(entry.get("clock"), dict)]
    return {int(entry["rank"]): entry["clock"] for entry in with_clock}


def _splits(tables: Tables, met: Exchanges, unsure: dict[int, int]) -> tuple[int, int, int]:
    """Waits for others, those whose split the clocks leave open, and those that cannot be."""
    events = tables.events
    rank, awaited = events["rank"].to_numpy(), met.awaited
    waits = np.flatnonzero((awaited >= 0) & (awaited != rank))
    waits = waits[np.unique(met.span[waits], return_index=True)[1]]
    of_rank = np.zeros(max([*unsure, *rank.tolist(), 0]) + 1, np.int64)
    of_rank[list(unsure)] = list(unsure.values())
    arrival = met.arrival_ns[waits]
    ends = [np.abs(events[name].to_numpy()[waits] - arrival) for name in ("start_ns", "end_ns")]
    doubt = of_rank[rank[waits]] + of_rank[awaited[waits]]
    late = arrival - events["end_ns"].to_numpy()[waits]
    return len(waits), int((np.minimum(*ends) < doubt).sum()), int((late > doubt).sum())
