"""What a rank says of itself while a run goes on: cumulative counters with a sequence number.

Only the newest sample of a rank matters: losing one loses nothing.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Sample(BaseModel):
    """Counters of one rank since the measured part of the run began (warm-up excluded)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rank: int
    role: str
    sequence: int  # grows by one with every sample of this rank
    stage: str  # "loading", "checking", "warming up", "running", "writing", "finished"
    step: int  # steps done in the measured part, all repeats together
    steps: int  # steps that the measured part will take, all repeats together
    elapsed_ns: int  # wall time of all those steps
    wall_ns: int  # wall time of those steps whose spans were recorded
    category_ns: dict[str, int]  # Category -> ns; the five sum to wall_ns
    tokens: int  # tokens generated
    tpot_ms: float | None  # of the latest decode steps; None before the first
    leases: int  # leases now held (pool) or out (base)
    memory_bytes: dict[str, int]  # Owner -> bytes, newest reading
    capacity_bytes: int  # memory of the device; on CPU, of the machine
    how: str  # how category_ns was made, as STEPS.method; "none": all idle
