"""What each activity of a device was for, as far as the trace says, and which step launched it.

Communication is what carries a collective's name or group, what was launched by an operator that
is one, and copies from device to device. Only what says nothing of the kind goes by its name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fapool.analysis.intervals import Times
from fapool.traces import Trace

COMPUTE, COMMUNICATION, COPY = 0, 1, 2
_NAMED = re.compile(r"^(nccl|rccl)|nccl(Dev)?Kernel", re.IGNORECASE)
_BETWEEN_DEVICES = re.compile(r"\bPtoP\b")


@dataclass(frozen=True, kw_only=True)
class Kernels:
    """Activities of one rank's device, in the order of `trace.kernels`.

    Arrays [n]: `use` is `COMPUTE`, `COMMUNICATION` or `COPY`; `launched_ns` when the host asked
    for it, or its own start where the launch is not in the trace; `by_name` what was taken for
    communication by its name alone.
    """

    start_ns: Times
    end_ns: Times
    launched_ns: Times
    use: NDArray[np.int8]
    by_name: NDArray[np.bool_]

    def spans(self, use: int) -> Times:
        """[m, 2]: when those of one use ran."""
        chosen = self.use == use
        return np.column_stack([self.start_ns[chosen], self.end_ns[chosen]])


def sort_out(trace: Trace) -> Kernels:
    """The kernels, copies and sets of one rank."""
    table = trace.kernels
    known = says(table, "collective", bool) | says(table, "group", bool) | _under(trace)
    known |= says(table, "name", _BETWEEN_DEVICES.search)
    is_kernel = says(table, "kind", "kernel".__eq__)
    by_name = is_kernel & ~known & says(table, "name", _NAMED.search)
    use = np.where(known | by_name, COMMUNICATION, np.where(is_kernel, COMPUTE, COPY))
    return Kernels(
        start_ns=column(table, "start_ns"),
        end_ns=column(table, "end_ns"),
        launched_ns=_launched(trace),
        use=use.astype(np.int8),
        by_name=by_name,
    )


def column(table: pa.Table, name: str) -> NDArray[np.int64]:
    """A column of integers as an array."""
    return table[name].to_numpy().astype(np.int64, copy=False)


def words(table: pa.Table, name: str) -> tuple[NDArray[np.int32], list[str]]:
    """(place of each row's word, the words) of a column of words."""
    whole = table[name].combine_chunks()
    if isinstance(whole, pa.ChunkedArray):  # a table of no rows has no chunks
        return np.empty(0, np.int32), []
    return whole.indices.to_numpy(), whole.dictionary.to_pylist()


def says(table: pa.Table, name: str, test) -> NDArray[np.bool_]:
    places, found = words(table, name)
    return np.array([bool(test(word)) for word in found], bool)[places]


def _under(trace: Trace) -> NDArray[np.bool_]:
    """Whether the operator that launched it is a collective's."""
    external = column(trace.kernels, "external")
    records = column(trace.collectives, "external")
    return (external >= 0) & np.isin(external, records)


def _launched(trace: Trace) -> Times:
    start_ns = column(trace.kernels, "start_ns")
    correlation = column(trace.kernels, "correlation")
    known = column(trace.launches, "correlation")
    if not len(known):
        return start_ns
    order = np.argsort(known, kind="stable")
    place = np.searchsorted(known[order], correlation)
    launch = order[np.minimum(place, len(order) - 1)]
    found = (correlation >= 0) & (known[launch] == correlation)
    return np.where(found, column(trace.launches, "start_ns")[launch], start_ns)
