"""Arrivals by what kernels say of their group, for exchanges of which the spans tell too little.

A receive that no span launched leaves its exchange without a record; the kernels of both ranks say
by themselves whom they met.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from fapool.analysis.activities.kernels import sort_out
from fapool.analysis.activities.rendezvous import Meetings, meet
from fapool.analysis.deep.events import Rows
from fapool.phases import Category
from fapool.traces.schema import Trace


def with_meetings(
    traces: Sequence[Trace], rows: list[Rows], shift_ns: Mapping[int, int]
) -> tuple[list[Rows], Meetings | None]:
    """`rows`, one for each trace, with `met_ns` in what is counted: when the last participant of
    a kernel began, on rank 0's clock, its own start where that is not known.

    None, and rows as they are, where every kernel of communication has a span.
    """
    if not any(_lacks(own) for own in rows):
        return rows, None
    met = meet(traces, [sort_out(trace) for trace in traces], shift_ns)
    found = []
    for trace, own, arrival_ns in zip(traces, rows, met.arrival_ns, strict=True):
        at_ns = own.counted["start_ns"].to_numpy(np.int64).copy()
        kernel = own.counted["kernel"].to_numpy(np.int64)
        ran = kernel >= 0
        at_ns[ran] = arrival_ns[kernel[ran]] + shift_ns.get(trace.rank, 0)
        found.append(replace(own, counted=own.counted.assign(met_ns=at_ns)))
    return found, met


def _lacks(rows: Rows) -> bool:
    talks = rows.kernels["category"] == Category.COMMUNICATION
    return bool((talks & (rows.kernels["span"] < 0)).any())
