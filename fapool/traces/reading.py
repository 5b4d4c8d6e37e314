"""One trace file in, one `Trace` out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from fapool.errors import ProfileFileError
from fapool.traces.gather import Gather
from fapool.traces.schema import Trace
from fapool.traces.stream import BLOCK_BYTES, EventStream

_RANK_IN_NAME = re.compile(r"rank[\W_]{0,2}(\d{1,9})", re.IGNORECASE)


def read(path: Path | str, *, ops: bool | None = False, block_bytes: int = BLOCK_BYTES) -> Trace:
    """Read a Chrome trace (JSON, plain or gzipped) in one pass, as far as it goes.

    `ops` asks for the host's operators, which are most events of most traces; None asks for them
    where there are no kernels. The rank is what `distributedInfo` says, else this project's own
    mark, else the file's name, else -1. Little but a block of text and the tables is held.

    Raises:
        ProfileFileError: the file cannot be opened, or is no trace at all.
    """
    path = Path(path)
    stream, gather = EventStream(path, block_bytes), Gather(ops=bool(ops))
    for events in stream:
        gather.take(events)
    if ops is None and gather.num_events and not gather.has_kernels:
        return read(path, ops=True, block_bytes=block_bytes)
    if not gather.has_events and gather.num_events + stream.skipped:
        raise ProfileFileError("trace", str(path), "none of its elements is an event of a trace")
    notes = [*stream.notes, *gather.notes()]
    if stream.skipped:
        notes.append(f"{stream.skipped:,} events could not be read: left out")
    if not gather.num_events:
        notes.append("the trace holds no events")
    info = _member(stream.metadata, "distributedInfo")
    own = _member(stream.metadata, "fapool")
    base_ns = _integer(stream.metadata.get("baseTimeNanoseconds"), 0)
    return Trace(
        path=path,
        rank=_integer(info.get("rank"), _integer(own.get("rank"), _rank_in_name(path))),
        world=_integer(info.get("world_size"), -1),
        base_ns=base_ns,
        metadata=stream.metadata,
        num_events=gather.num_events,
        cut_off=stream.cut_off,
        notes=notes,
        **gather.tables(base_ns),
    )


def _rank_in_name(path: Path) -> int:
    found = _RANK_IN_NAME.search(path.name)
    return int(found[1]) if found else -1


def _member(metadata: dict[str, Any], name: str) -> dict[str, Any]:
    found = metadata.get(name)
    return found if isinstance(found, dict) else {}


def _integer(value: Any, otherwise: int) -> int:
    try:
        found = int(value)
    except (TypeError, ValueError, OverflowError):
        return otherwise
    return found if 0 <= found < 2**61 else otherwise
