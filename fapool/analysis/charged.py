"""What of the ranks' time a run is charged for, on the common clock.

rank 0     | prefill | decode | decode |          | decode |     its own step borders
base       [================================================)   charged: all that elapses
pool            [= leased ==========)     [= leased ========)   charged: steps with a lease
decode               [=================)          [========)    the part that decoding is charged

Step borders are each rank's own: a pool rank's step also holds its wait for the base's next work.
So no step of one rank is ever divided by a step of another; only time on the clock is compared.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from fapool.analysis import intervals
from fapool.analysis.intervals import Times
from fapool.analysis.kinds import decode_on_rank_0
from fapool.analysis.load import Tables
from fapool.phases import Role
from fapool.spec import FAPool


@dataclass(frozen=True, kw_only=True)
class Charge:
    """Nanoseconds summed over repeats: elapsed, charged over all ranks, and both for decoding.

    Invariant: a rank is never charged for more than elapses; without a pool, for no less.
    """

    reserved: int  # ranks
    elapsed_ns: int
    charged_ns: int
    decode_ns: int  # rank 0's decode steps
    decode_charged_ns: int  # charged over all ranks within them

    def __post_init__(self) -> None:
        for charged, elapsed in (
            (self.charged_ns, self.elapsed_ns),
            (self.decode_charged_ns, self.decode_ns),
        ):
            assert 0 <= charged <= self.reserved * elapsed, "charged for more than was reserved"

    @property
    def gpus(self) -> float | None:
        """Ranks charged, mean over the elapsed time; None where none elapsed."""
        return self.charged_ns / self.elapsed_ns if self.elapsed_ns else None

    @property
    def decode_gpus(self) -> float | None:
        """Ranks charged, mean over rank 0's decode steps; None without any."""
        return self.decode_charged_ns / self.decode_ns if self.decode_ns else None


def charge(tables: Tables) -> Charge:
    """Charge every base rank for what elapses, a pool rank for its steps with a lease."""
    plan = tables.spec.plan
    base = plan.world - (plan.pool if isinstance(plan, FAPool) else 0)
    elapsed = charged = decoded = decode_charged = 0
    for _, steps in tables.steps.groupby("repeat"):
        start, end = int(steps["start_ns"].min()), int(steps["end_ns"].max())
        decode = intervals.union(_times(decode_on_rank_0(steps)))
        elapsed += end - start
        charged += base * (end - start)
        decoded += intervals.total(decode)
        decode_charged += base * intervals.total(decode)
        serving = steps[(steps["role"] == Role.POOL) & (steps["leased"] > 0)]
        for _, rows in serving.groupby("rank"):
            leased = intervals.clip(intervals.union(_times(rows)), start, end)
            charged += intervals.total(leased)
            decode_charged += intervals.total(intervals.intersect(leased, decode))
    return Charge(
        reserved=plan.world,
        elapsed_ns=elapsed,
        charged_ns=charged,
        decode_ns=decoded,
        decode_charged_ns=decode_charged,
    )


def _times(steps: pd.DataFrame) -> Times:
    return steps[["start_ns", "end_ns"]].to_numpy(np.int64)
