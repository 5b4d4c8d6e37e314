"""Events of Chrome's trace format as text, a column at a time: what Perfetto opens.

A field is a JSON text for all rows, or an arrow array of JSON texts, one a row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

Field = str | pa.Array
THREADS = 10_000
"""More threads than a rank has."""

ROWS = 200_000
"""Rows whose text is made at once: an arrow array of strings holds 2 GiB."""


def thread_id(pid: Any, thread: Any) -> Any:
    """What a process's thread is called in the file.

    Perfetto knows threads by number, whatever their process, and takes 0 and a process's own
    number for its main thread: two threads of ours would become one.
    """
    return (pid + 1) * THREADS + thread


def numbers(values: Sequence[int]) -> pa.Array:
    """Whole numbers."""
    return pc.cast(pa.array(np.asarray(values, dtype=np.int64)), pa.string())


def words(values: Sequence[str]) -> pa.Array:
    """Strings, quoted; few different ones."""
    codes, different = pd.factorize(np.asarray(values, dtype=object))
    quoted = [orjson.dumps(str(word)).decode() for word in different]
    return pa.array(quoted, pa.string()).take(pa.array(codes))


def microseconds(ns: Sequence[int]) -> pa.Array:
    """Nanoseconds, none negative, as microseconds to the last digit."""
    whole, rest = np.divmod(np.asarray(ns, dtype=np.int64), 1000)
    padded = pc.utf8_lpad(numbers(rest), 3, "0")
    return pc.binary_join_element_wise(numbers(whole), padded, ".")


def members(fields: Mapping[str, Field]) -> Field:
    """JSON objects of these fields."""
    pieces: list[str | pa.Array] = []
    for name, field in fields.items():
        pieces += [f'{"," if pieces else "{"}"{name}":', field]
    pieces.append("}" if pieces else "{}")
    if all(isinstance(piece, str) for piece in pieces):
        return "".join(pieces)
    return pc.binary_join_element_wise(*pieces, "")


def lines(num_rows: int, fields: Mapping[str, Field]) -> list[bytes]:
    """Events of these fields, each with a comma and an end of line behind it."""
    found = []
    for start in range(0, num_rows, ROWS):
        part = {
            name: field if isinstance(field, str) else field.slice(start, ROWS)
            for name, field in fields.items()
        }
        events = pc.binary_join_element_wise(members(part), ",\n", "")
        found.append(_bytes(events))
    return found


def slices(rows: pd.DataFrame, base_ns: int, args: Mapping[str, Field]) -> list[bytes]:
    """Slices of rows with pid, tid (of the process's threads), start_ns, end_ns, name and cat."""
    fields = {
        "ph": '"X"',
        "name": words(rows["name"]),
        "cat": words(rows["cat"]),
        "pid": numbers(rows["pid"]),
        "tid": numbers(thread_id(rows["pid"], rows["tid"])),
        "ts": microseconds(rows["start_ns"] - base_ns),
        "dur": microseconds(rows["end_ns"] - rows["start_ns"]),
        "args": members(args),
    }
    return lines(len(rows), fields)


def flows(rows: pd.DataFrame, base_ns: int, cat: str, first_id: int) -> list[bytes]:
    """Arrows of rows with name, from_pid, from_tid, from_ns, to_pid, to_tid, to_ns."""
    same = {
        "name": words(rows["name"]),
        "cat": orjson.dumps(cat).decode(),
        "id": numbers(first_id + np.arange(len(rows))),
    }
    found = []
    for ph, end in (("s", "from"), ("f", "to")):
        at = {
            "pid": numbers(rows[f"{end}_pid"]),
            "tid": numbers(thread_id(rows[f"{end}_pid"], rows[f"{end}_tid"])),
            "ts": microseconds(rows[f"{end}_ns"] - base_ns),
        }
        bind = {"bp": '"e"'} if ph == "f" else {}
        found += lines(len(rows), {"ph": f'"{ph}"'} | same | bind | at)
    return found


def counters(
    rows: pd.DataFrame, base_ns: int, name: Field, what: str, values: Sequence[int]
) -> list[bytes]:
    """Counters of rows with pid and time_ns, on a track that is called `name what`."""
    fields = {
        "ph": '"C"',
        "name": name,
        "pid": numbers(rows["pid"]),
        "tid": numbers(thread_id(rows["pid"], 0)),
        "ts": microseconds(rows["time_ns"] - base_ns),
        "args": members({what: numbers(values)}),
    }
    return lines(len(rows), fields)


def named(pid: int, tid: int, what: str, **args: str | int) -> bytes:
    """What a process or a thread is called, or where it stands."""
    event = {"ph": "M", "pid": pid, "tid": thread_id(pid, tid), "name": what, "args": args}
    return orjson.dumps(event) + b",\n"


def _bytes(texts: pa.Array) -> bytes:
    """All of them, one after the other."""
    _, _, data = texts.buffers()
    ends = np.frombuffer(texts.buffers()[1], dtype=np.int32)
    ends = ends[texts.offset : texts.offset + len(texts) + 1]
    return data.slice(int(ends[0]), int(ends[-1] - ends[0])).to_pybytes()
