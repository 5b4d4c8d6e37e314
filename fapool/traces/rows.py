"""What each table takes from its events: events and their args in, columns out."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fapool.traces.columns import numbers
from fapool.traces.events import Args, Event

Columns = dict[str, Any]
RowsOf = Callable[[list[Event], list[Args]], Columns]

STEP = re.compile(r"ProfilerStep\s*#(\d{1,18})$")
RECORD = "record_param_comms"

ITEM_BYTES = {
    word: size
    for size, words in {
        1: "byte char bool int8 uint8 float8_e4m3fn float8_e5m2",
        2: "short half bfloat16 int16 float16",
        4: "int float int32 float32",
        8: "long double int64 float64 complexfloat",
        16: "complexdouble",
    }.items()
    for word in words.split()
}
"""Bytes of an element, by the names that Kineto and NCCL's records have for a dtype."""

NOTHING_CARRIED = {"collective": "", "group": "", "sequence": -1, "peer": -1, "ranks": ""}


def launches(rows: list[Event], args: list[Args]) -> Columns:
    """Columns of `LAUNCHES`, times left out, as everywhere here."""
    return {
        "name": [row.name for row in rows],
        "tid": numbers([row.tid for row in rows]),
        "correlation": numbers([arg.correlation for arg in args]),
        "external": numbers([arg.external for arg in args]),
    }


def kernels(kind: str, *, carrying: bool) -> RowsOf:
    """Columns of `KERNELS` of one kind, whether or not they carry words of a collective."""

    def columns(rows: list[Event], args: list[Args]) -> Columns:
        moved = numbers([arg.bytes for arg in args])
        found = {
            "name": [row.name for row in rows],
            "kind": kind,
            "device": _first_known([arg.device for arg in args], rows, "pid"),
            "stream": _first_known([arg.stream for arg in args], rows, "tid"),
            "correlation": numbers([arg.correlation for arg in args]),
            "external": numbers([arg.external for arg in args]),
            "graph_node": numbers([arg.graph_node for arg in args]),
        }
        if not carrying:
            return found | NOTHING_CARRIED | {"bytes": moved}
        payload = np.where(moved >= 0, moved, _payload(args))
        names = [arg.collective for arg in args]
        return found | _carried(args) | {"bytes": payload, "collective": names}

    return columns


def collectives(rows: list[Event], args: list[Args]) -> Columns:
    """Columns of `COLLECTIVES`; the name is the event's where it carries none."""
    return _carried(args) | {
        "name": [arg.collective or _bare(row.name) for row, arg in zip(rows, args, strict=True)],
        "source": [row.name for row in rows],
        "bytes": _payload(args),
        "tid": numbers([row.tid for row in rows]),
        "external": numbers([arg.external for arg in args]),
    }


def spans(rows: list[Event], args: list[Args]) -> Columns:
    """Columns of `SPANS`."""
    return {
        "phase": [row.name for row in rows],
        "category": [arg.category for arg in args],
        "layer": numbers([arg.layer for arg in args]),
        "micro_batch": numbers([arg.micro_batch for arg in args]),
        "channel": [arg.channel for arg in args],
        "sequence": numbers([arg.sequence for arg in args]),
        "bytes": numbers([arg.bytes for arg in args]),
        "graph": numbers([arg.graph for arg in args]),
        "tid": numbers([row.tid for row in rows]),
        "external": numbers([arg.external for arg in args]),
    }


def steps(*, on_device: bool) -> RowsOf:
    """Columns of `STEPS` on one side; all events are named ProfilerStep#n."""

    def columns(rows: list[Event], args: list[Args]) -> Columns:
        return {
            "number": numbers([STEP.match(str(row.name))[1] for row in rows]),
            "on_device": np.full(len(rows), on_device),
            "tid": numbers([row.tid for row in rows]),
        }

    return columns


def ops(rows: list[Event], args: list[Args]) -> Columns:
    """Columns of `OPS`."""
    return {
        "name": [row.name for row in rows],
        "tid": numbers([row.tid for row in rows]),
        "external": numbers([arg.external for arg in args]),
    }


def _carried(args: list[Args]) -> Columns:
    """What kernels and host records carry of a collective alike."""
    peers = [arg.target_rank if arg.source_rank in (-1, None) else arg.source_rank for arg in args]
    return {
        "group": [arg.group for arg in args],
        "sequence": numbers([arg.seq for arg in args]),
        "peer": numbers(peers),
        "ranks": [arg.ranks for arg in args],
    }


def _payload(args: list[Args]) -> NDArray[np.int64]:
    """Bytes of the larger of what a collective takes and gives; -1 unknown."""
    count = np.maximum(numbers([arg.taken for arg in args]), numbers([arg.given for arg in args]))
    size = np.array([ITEM_BYTES.get(str(arg.dtype).lower(), 0) for arg in args], np.int64)
    return np.where((count >= 0) & (size > 0), np.minimum(count, 2**58) * size, -1)


def _first_known(own: list[Any], rows: list[Event], other: str) -> NDArray[np.int64]:
    found = numbers(own)
    if (found >= 0).all():
        return found
    return np.where(found >= 0, found, numbers([getattr(row, other) for row in rows]))


def _bare(name: Any) -> str:
    """ "allreduce" of "c10d::allreduce_", "all_reduce" of "gloo:all_reduce"."""
    return str(name).rpartition(":")[2].strip("_")
