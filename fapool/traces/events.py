"""The fields of a trace's event that are read; all else that it carries is passed over.

A file may hold any of them as a number, as text or not at all. Where an instant is so large that a
float would lose nanoseconds, events are decoded a second time, instants as decimals.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import msgspec

Value = int | float | str | None
Instant = float | str | None

EXACT_BELOW_US = 2.0**43
"""Microseconds up to which a float holds three decimals: half of its last place is < 0.5 ns."""

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding raises for text that is not what was asked for."""


class Args(msgspec.Struct, gc=False):
    """What is read of an event's `args`; a number is -1 and a word "" where it is missing."""

    device: Value = -1
    stream: Value = -1
    correlation: Value = -1
    external: Value = msgspec.field(default=-1, name="External id")
    graph_node: Value = msgspec.field(default=-1, name="graph node id")
    bytes: Value = -1
    collective: Value = msgspec.field(default="", name="Collective name")
    group: Value = msgspec.field(default="", name="Process Group Name")
    ranks: Value = msgspec.field(default="", name="Process Group Ranks")
    source_rank: Value = msgspec.field(default=-1, name="Src Rank")
    target_rank: Value = msgspec.field(default=-1, name="Dst Rank")
    seq: Value = msgspec.field(default=-1, name="Seq")
    taken: Value = msgspec.field(default=-1, name="In msg nelems")
    given: Value = msgspec.field(default=-1, name="Out msg nelems")
    dtype: Value = ""
    category: Value = ""
    layer: Value = -1
    micro_batch: Value = -1
    channel: Value = ""
    sequence: Value = -1
    graph: Value = -1


NO_ARGS = Args()


class Event(msgspec.Struct, gc=False):
    """One element of `traceEvents`."""

    ph: str = ""
    cat: str | None = None
    name: Value = ""
    ts: Instant = None
    dur: Instant = None
    pid: Value = -1
    tid: Value = -1
    args: Args | None = None
    end_ts: Any = msgspec.field(default=None, name="- end of a pair -")  # never in a file


class ExactEvent(Event, gc=False):
    """The same with instants as decimals: slower, and right at any size."""

    ts: Decimal | None = None
    dur: Decimal | None = None
