"""Borders of a rank's steps in the time of its device, or of its host where there are no kernels.

A step of the device begins with the first activity that the host launched in that step, and ends
where the next begins: the host may be far ahead, and what it launches belongs to the step all the
same. The last ends with the last activity that was launched in it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fapool.analysis.activities.kernels import Kernels, column
from fapool.analysis.intervals import Times
from fapool.traces import Trace


@dataclass(frozen=True, kw_only=True)
class Steps:
    """Windows [start, end) of one rank's steps, sorted and disjoint; number -1: the whole trace."""

    number: NDArray[np.int64]
    start_ns: Times
    end_ns: Times

    def only(self, chosen: NDArray[np.bool_]) -> Steps:
        """Those of them that are chosen, bool [n]."""
        return Steps(
            number=self.number[chosen],
            start_ns=self.start_ns[chosen],
            end_ns=self.end_ns[chosen],
        )


def host_steps(trace: Trace) -> Steps:
    """ProfilerStep#n on the thread that has most of them; overlaps go to the earlier step."""
    table = trace.steps.filter(~trace.steps["on_device"].to_numpy())
    thread = column(table, "tid")
    threads, counts = np.unique(thread, return_counts=True)
    rows = thread == threads[counts.argmax()] if len(threads) else np.zeros(0, bool)
    start_ns, end_ns = column(table, "start_ns")[rows], column(table, "end_ns")[rows]
    reach = np.maximum.accumulate(end_ns)
    if len(reach):
        start_ns = np.maximum(start_ns, np.r_[start_ns[0], reach[:-1]])
    return Steps(
        number=column(table, "number")[rows],
        start_ns=start_ns,
        end_ns=np.maximum(end_ns, start_ns),
    )


def step_of(steps: Steps, instants_ns: Times) -> NDArray[np.int64]:
    """Place among `steps` of the last that has begun at each instant; -1 before the first."""
    return np.searchsorted(steps.start_ns, instants_ns, side="right") - 1


def device_steps(host: Steps, kernels: Kernels) -> Steps:
    """The windows of the device. Without host steps, one over all of its activities."""
    if not len(kernels.start_ns):
        return host
    if not len(host.number):
        whole = kernels.start_ns.min(), kernels.end_ns.max()
        number, start, end = (np.array([value], np.int64) for value in (-1, *whole))
        return Steps(number=number, start_ns=start, end_ns=end)
    place = step_of(host, kernels.launched_ns)
    never = np.iinfo(np.int64).max
    first = np.full(len(host.number), never)
    np.minimum.at(first, place[place >= 0], kernels.start_ns[place >= 0])
    # a step that launched nothing begins with its host; none begins before the one before it
    start_ns = np.maximum.accumulate(np.where(first == never, host.start_ns, first))
    inside = (place == len(first) - 1) & (kernels.launched_ns < host.end_ns[-1])
    last = kernels.end_ns[inside].max() if inside.any() else host.end_ns[-1]
    end_ns = np.r_[start_ns[1:], max(last, start_ns[-1])]
    return Steps(number=host.number, start_ns=start_ns, end_ns=end_ns)
