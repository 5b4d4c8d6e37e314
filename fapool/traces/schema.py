"""What a profiler's trace holds, as small tables: all that later stages know of a trace file.

Times are integer nanoseconds since the Unix epoch, on the clock of the process that was traced:
`baseTimeNanoseconds` of the file plus 1000 times an event's `ts`, exact to the nanosecond. Numbers
that an event did not carry are -1, words are "".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa


def _table(**columns: pa.DataType) -> pa.Schema:
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in columns.items()])


_I32, _I64, _BOOL = pa.int32(), pa.int64(), pa.bool_()
_WORD = pa.dictionary(pa.int32(), pa.string())

KERNELS = _table(
    name=_WORD,
    kind=_WORD,  # "kernel", "memcpy", "memset"
    device=_I32,
    stream=_I64,
    start_ns=_I64,
    end_ns=_I64,
    correlation=_I64,  # of the launch that asked for it
    external=_I64,  # "External id": that of the operator that launched it
    graph_node=_I64,  # node of a CUDA graph; -1 unknown or none
    bytes=_I64,  # moved by a copy or set; the larger of what a collective takes and gives
    collective=_WORD,  # what a communication kernel carries: "allreduce", "send", ...
    group=_WORD,  # name of its process group
    sequence=_I64,  # of the collective in its group
    peer=_I32,  # rank sent to or received from
    ranks=_WORD,  # of the group, as the trace has them: "[0, 1]"
)
"""One activity of a device."""

LAUNCHES = _table(
    name=_WORD,
    tid=_I64,
    start_ns=_I64,
    end_ns=_I64,
    correlation=_I64,
    external=_I64,
)
"""One call of the CUDA runtime or driver on the host."""

SPANS = _table(
    phase=_WORD,
    category=_WORD,
    layer=_I32,
    micro_batch=_I32,
    channel=_WORD,
    sequence=_I64,
    bytes=_I64,
    graph=_I64,  # number of the CUDA graph whose capture or replay it encloses
    tid=_I64,
    start_ns=_I64,
    end_ns=_I64,
    external=_I64,
)
"""One of this project's spans, on the host: a range that has a `category` among its args."""

STEPS = _table(
    number=_I64,  # n of ProfilerStep#n
    on_device=_BOOL,  # the range of kernels that it launched, on one stream
    tid=_I64,  # the thread, or on the device the stream
    start_ns=_I64,
    end_ns=_I64,
)
"""One profiler step, on the host or on a stream of a device."""

OPS = _table(name=_WORD, tid=_I64, start_ns=_I64, end_ns=_I64, external=_I64)
"""One operator on the host, our spans left out; read only where they are asked for."""

COLLECTIVES = _table(
    name=_WORD,  # "allreduce", "send", ...; "wait" too
    source=_WORD,  # the event: "record_param_comms", "c10d::allreduce_", "gloo:all_reduce"
    group=_WORD,
    sequence=_I64,
    peer=_I32,
    ranks=_WORD,
    bytes=_I64,
    tid=_I64,
    start_ns=_I64,
    end_ns=_I64,
    external=_I64,
)
"""One record of a collective or message on the host."""

SCHEMAS = {
    "kernels": KERNELS,
    "launches": LAUNCHES,
    "spans": SPANS,
    "steps": STEPS,
    "ops": OPS,
    "collectives": COLLECTIVES,
}
"""Attribute of `Trace` -> schema."""


@dataclass(frozen=True, kw_only=True)
class Trace:
    """One rank's trace. Tables have the schemas above, rows in order of their start.

    `metadata`: the members of the file beside its events (`deviceProperties`, `distributedInfo`,
    `fapool`, ...). `cut_off`: the file ends before its events do. `notes`: plain sentences of what
    is missing, cut off or was not understood.
    """

    path: Path
    rank: int
    world: int  # -1 unknown
    base_ns: int
    metadata: dict[str, Any]
    kernels: pa.Table
    launches: pa.Table
    spans: pa.Table
    steps: pa.Table
    ops: pa.Table
    collectives: pa.Table
    num_events: int
    cut_off: bool = False
    notes: list[str] = field(default_factory=list)
