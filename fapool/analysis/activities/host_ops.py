"""Ranks without a device: what their host's operators say, where no kernel says anything.

Computing is any operator but those of a collective; communication is the work of a collective, on
whichever thread it is done. Where a trace has the work of a backend ("gloo:all_reduce"), the call
that handed it over ("c10d::allreduce_") is neither: it returns before the work is done.

    thread    [ mm ][ c10d::send ][   mm   ]      computes in both, though
    thread              [ gloo:send            ]  the trace has the work on the thread that called
"""

from __future__ import annotations

import numpy as np

from fapool.analysis import intervals
from fapool.analysis.activities.kernels import column, says
from fapool.analysis.activities.steps import Steps
from fapool.analysis.intervals import Times
from fapool.traces import Trace

_WORK = ("gloo:", "mpi:", "ucc:")


def windows(trace: Trace, host: Steps) -> Steps:
    """The steps of the host; one over all operators where there are none."""
    if len(host.number) or not trace.ops.num_rows:
        return host
    whole = column(trace.ops, "start_ns").min(), column(trace.ops, "end_ns").max()
    number, start_ns, end_ns = (np.array([value], np.int64) for value in (-1, *whole))
    return Steps(number=number, start_ns=start_ns, end_ns=end_ns)


def sets(trace: Trace) -> list[Times]:
    """Sets of computing, communication, waits and copies; the last two cannot be told here."""
    work = says(trace.collectives, "source", lambda word: word.startswith(_WORK))
    spans = _spans(trace.collectives)
    communication = intervals.union(spans[work] if work.any() else spans)
    compute = []
    threads = column(trace.ops, "tid")
    on_thread = column(trace.collectives, "tid")
    computes = ~says(trace.ops, "name", lambda word: word.startswith(_WORK))
    operators = _spans(trace.ops)
    for thread in np.unique(threads):
        own = intervals.union(operators[(threads == thread) & computes])
        here = on_thread == thread
        spent = _spent(spans[here & ~work], spans[here & work])
        compute.append(intervals.subtract(own, spent))
    return [intervals.union(*compute), communication, intervals.EMPTY, intervals.EMPTY]


def _spent(calls: Times, work: Times) -> Times:
    """What a thread itself spends: its calls, and work that no call of its own handed over."""
    calls = intervals.union(calls)
    at = work[:, 0]
    return intervals.union(calls, work[intervals.covered(calls, at, at + 1) == 0])


def _spans(table) -> Times:
    return np.column_stack([column(table, "start_ns"), column(table, "end_ns")])
