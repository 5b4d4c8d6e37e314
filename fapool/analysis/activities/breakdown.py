"""The breakdown of traces, as far as it needs no spans: of any program's, made by any profiler.

By priority, on one rank, in a step of its device: compute where a kernel runs that communicates
nothing; communication where a transfer runs and no computation; synchronization where a kernel of
communication has begun and its last participant has not; copies where memory is moved or set and
nothing else runs; idle where the device does nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from fapool.analysis import intervals
from fapool.analysis.activities import caveats, cut, host_ops
from fapool.analysis.activities.kernels import COMMUNICATION, COMPUTE, COPY, Kernels, sort_out
from fapool.analysis.activities.rendezvous import NO_SHIFTS, Meetings, meet
from fapool.analysis.activities.steps import Steps, device_steps, host_steps
from fapool.analysis.intervals import Times
from fapool.traces import Trace

PARTS = ["compute_ns", "communication_ns", "synchronization_ns", "copies_ns", "idle_ns"]
HIDDEN = ["hidden_ns", "hidden_wait_ns"]
COLUMNS = ["rank", "step", "wall_ns", *PARTS, *HIDDEN, "method"]
KERNELS, HOST_OPS = "kernels", "host ops"


@dataclass(frozen=True, kw_only=True)
class Traced:
    """The partition of a folder of traces.

    `steps`: one row per (rank, step) with wall_ns, the five `PARTS`, which sum to it, the
    `HIDDEN`, which lie under computation (transfers, and waits beside no transfer), and method:
    "kernels", or "host ops" of a rank without a device, where operators count as computation. Step
    is -1 where a trace has no steps and is one whole. Steps that a trace was cut off in are not
    there. `clock` says on whose clock ranks were
    compared; `notes` what else a reader must know.
    """

    steps: pd.DataFrame
    meetings: Meetings
    clock: str
    notes: list[str]

    def __post_init__(self) -> None:
        parts = self.steps[PARTS].to_numpy()
        assert (parts >= 0).all(), "a part of a step is negative"
        assert (parts.sum(axis=1) == self.steps["wall_ns"]).all(), "parts do not sum to the wall"


def break_down(traces: Sequence[Trace], shift_ns: Mapping[int, int] = NO_SHIFTS) -> Traced:
    """The partition of every step of every trace, in integer nanoseconds.

    `shift_ns`: by rank, what to add to its times to compare them with the others'.
    """
    kernels = [sort_out(trace) for trace in traces]
    met = meet(traces, kernels, shift_ns)
    rows: list[pd.DataFrame] = []
    notes: dict[str, list[int]] = {}
    for trace, own, arrival_ns in zip(traces, kernels, met.arrival_ns, strict=True):
        host = host_steps(trace)
        if len(own.start_ns):
            steps, method = device_steps(host, own), KERNELS
            sets = _device_sets(own, arrival_ns)
        else:
            steps, method = host_ops.windows(trace, host), HOST_OPS
            sets = host_ops.sets(trace)
        if len(host.number):
            steps = steps.only(cut.whole(trace, host.end_ns))
        parted = _parts(steps, sets)
        rows.append(parted.assign(rank=trace.rank, method=method))
        for note in caveats.of_rank(trace, own, host, steps):
            notes.setdefault(note, []).append(trace.rank)
    return Traced(
        steps=pd.concat(rows, ignore_index=True)[COLUMNS],
        meetings=met,
        clock=caveats.clock(traces),
        notes=[*caveats.of_meetings(met), *caveats.by_ranks(notes)],
    )


def _device_sets(kernels: Kernels, arrival_ns: Times) -> list[Times]:
    """Sets of compute, transfers, waits and copies of one rank."""
    compute = intervals.union(kernels.spans(COMPUTE))
    chosen = kernels.use == COMMUNICATION
    arrival_ns = arrival_ns[chosen]
    transfers = np.column_stack([arrival_ns, kernels.end_ns[chosen]])
    waits = np.column_stack([kernels.start_ns[chosen], arrival_ns])
    copies = intervals.union(kernels.spans(COPY))
    return [compute, intervals.union(transfers), intervals.union(waits), copies]


def _parts(steps: Steps, sets: list[Times]) -> pd.DataFrame:
    """Parts of each step; `sets` in order of `PARTS`, idle left out, compute first."""
    start_ns, end_ns = steps.start_ns, steps.end_ns
    found = {"step": steps.number, "wall_ns": end_ns - start_ns}
    taken, before = intervals.EMPTY, np.zeros(len(start_ns), np.int64)
    for part, own in zip(PARTS, sets, strict=False):
        taken = intervals.union(taken, own)
        covered = intervals.covered(taken, start_ns, end_ns)
        found[part], before = covered - before, covered
    found[PARTS[-1]] = found["wall_ns"] - before
    compute, transfers, waits, _ = sets
    under = intervals.intersect(compute, transfers)
    waited = intervals.subtract(intervals.intersect(compute, waits), transfers)
    for name, hidden in zip(HIDDEN, (under, waited), strict=True):
        found[name] = intervals.covered(hidden, start_ns, end_ns)
    return pd.DataFrame(found)
