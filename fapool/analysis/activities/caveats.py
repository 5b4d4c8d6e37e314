"""What a reader of a breakdown of traces must know beside its numbers, in plain sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from fapool.analysis import intervals
from fapool.analysis.activities import cut
from fapool.analysis.activities.kernels import COMPUTE, Kernels, column, says, words
from fapool.analysis.activities.rendezvous import Meetings
from fapool.analysis.activities.steps import Steps
from fapool.analysis.fused import FUSED
from fapool.traces import Trace

HOST_ONLY = (
    "no kernels: the host's operators count as computation, the work of its collectives as "
    "communication; waiting cannot be told from transferring"
)


def of_rank(trace: Trace, kernels: Kernels, host: Steps, steps: Steps) -> list[str]:
    """Of one rank, what its file's reader found first."""
    found = list(trace.notes)
    left = len(host.number) - len(steps.number) if len(host.number) else 0
    if left:
        found.append(cut.note(left, len(host.number)))
    if not len(kernels.start_ns) and not left:
        told = trace.ops.num_rows or trace.collectives.num_rows
        found.append(HOST_ONLY if told else "neither kernels nor operators: nothing to break down")
    if not len(host.number) and len(steps.number):
        found.append("no ProfilerStep in the trace: all of it is one step")
    if by_name := int(kernels.by_name.sum()):
        found.append(f"{by_name:,} kernels count as communication by their name alone")
    if fused := _fused(trace, kernels):
        found.append(fused)
    devices = np.unique(column(trace.kernels, "device"))
    if len(devices) > 1:
        found.append(f"{len(devices)} devices: a part is where any of them does that")
    if not left and (outside := _outside_ns(kernels, steps)):
        found.append(f"{outside / 1e6:.3f} ms of activity lies before or after its steps")
    return found


def by_ranks(notes: Mapping[str, Sequence[int]]) -> list[str]:
    """Notes with the ranks of which each is true."""
    return [
        f"rank{'s' * (len(ranks) > 1)} {', '.join(map(str, ranks))}: {note}"
        for note, ranks in notes.items()
    ]


def of_meetings(met: Meetings) -> list[str]:
    """How far waits could be told from transfers."""
    found = []
    if met.nameless:
        found.append(
            f"{met.nameless:,} kernels of communication do not say their group: theirs is "
            "communication whole"
        )
    alone = met.communication - met.nameless - met.matched
    if alone:
        found.append(
            f"{alone:,} kernels of communication met none on the other ranks (no trace, another "
            "number of them, or cut off): theirs is communication whole"
        )
    if met.early:
        found.append(
            f"{met.early:,} were over before the last participant began (sent from a buffer, or "
            "clocks apart): theirs is communication whole"
        )
    return found


def clock(traces: Sequence[Trace]) -> str:
    """On whose clock ranks were compared."""
    if len(traces) < 2:
        return "one rank: on its own clock"
    hosts = {trace.metadata.get("host_name") for trace in traces}
    if None in hosts or not all(isinstance(name, str) for name in hosts):
        return "on each rank's own Unix clock; the traces do not say how far these are apart"
    if len(hosts) == 1:
        return f"on the Unix clock of {hosts.pop()}; its devices' offsets are not in the traces"
    return (
        f"on the Unix clocks of {len(hosts)} hosts; the traces do not say how far apart these are"
    )


def _fused(trace: Trace, kernels: Kernels) -> str:
    """Of traces of ours: kernels that exchange and compute in one, and say nothing of the kind."""
    if not trace.spans.num_rows:
        return ""
    own = says(trace.kernels, "name", FUSED.__contains__) & (kernels.use == COMPUTE)
    if not own.any():
        return ""
    spent_ns = (kernels.end_ns - kernels.start_ns)[own].sum()
    names = ", ".join(sorted(FUSED.keys() & set(words(trace.kernels, "name")[1])))
    return (
        f"{int(own.sum()):,} kernels that exchange and compute in one ({names}), "
        f"{spent_ns / 1e6:.3f} ms with their waits, count as computation here; by spans they do not"
    )


def _outside_ns(kernels: Kernels, steps: Steps) -> int:
    active = intervals.union(np.column_stack([kernels.start_ns, kernels.end_ns]))
    inside = intervals.covered(active, steps.start_ns, steps.end_ns).sum()
    return intervals.total(active) - int(inside)
