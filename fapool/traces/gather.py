"""Events to their tables: which of them is a kernel, a launch, a span, a step, a collective."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pyarrow as pa

from fapool.traces import rows as columns_of
from fapool.traces.columns import Columns
from fapool.traces.events import NO_ARGS, Event
from fapool.traces.rows import RECORD, STEP, RowsOf
from fapool.traces.schema import SCHEMAS
from fapool.traces.times import MISSING, to_ns

KINDS = {"kernel": "kernel", "gpu_memcpy": "memcpy", "gpu_memset": "memset"}
KINDS |= {"memcpy": "memcpy", "memset": "memset"}  # as torch before 1.11 called them
LAUNCHES = {"cuda_runtime", "cuda_driver", "runtime"}
HOST_OPS = {"cpu_op", "operator"}
ANNOTATION, DEVICE_ANNOTATION = "user_annotation", "gpu_user_annotation"
COLLECTIVES = ("c10d::", "_c10d_functional::", "gloo:", "nccl:", "mpi:", "ucc:")

NO_EVENTS = "elements of the list are no events: left out"

TIMELESS = set("MiIRstfPCcNODF")
"""Phases of events that take no time: metadata, instants, flows, samples, counters, objects."""


class Gather:
    """Takes blocks of events, times relative to the file's base; `tables` when all have come."""

    def __init__(self, *, ops: bool) -> None:
        self.num_events = 0
        self._ops = ops
        self._columns = {name: Columns(schema) for name, schema in SCHEMAS.items()}
        self._open: dict[tuple, list[Event]] = defaultdict(list)  # B events that wait for their E
        self._odd: Counter[str] = Counter()
        self._is_record = _IsRecord()

    def take(self, events: list[Event]) -> None:
        """Add one block."""
        by_category: dict[str | None, list[Event]] = defaultdict(list)
        for event in events:
            if event.ph == "X":
                by_category[event.cat].append(event)
            elif event.ph not in TIMELESS and (whole := self._paired(event)) is not None:
                by_category[whole.cat].append(whole)
        self.num_events += len(events)
        for category, rows in by_category.items():
            self._take(category.lower() if category else "", rows)

    def tables(self, base_ns: int) -> dict[str, pa.Table]:
        """All tables by their names in `SCHEMAS`, with `base_ns` added to all times."""
        return {name: columns.table(base_ns) for name, columns in self._columns.items()}

    def notes(self) -> list[str]:
        """What was left out or mended, in sentences."""
        if unended := sum(map(len, self._open.values())):
            self._odd["events began and did not end: left out"] = unended
        return [f"{count:,} {what}" for what, count in self._odd.items() if count]

    @property
    def has_kernels(self) -> bool:
        """Whether a device did anything."""
        return len(self._columns["kernels"]) > 0

    @property
    def has_events(self) -> bool:
        """Whether any element was an event."""
        return self.num_events > self._odd[NO_EVENTS]

    def _paired(self, event: Event) -> Event | None:
        """The event that an E ends, with its end; None for all else."""
        if event.ph == "B":
            self._open[event.pid, event.tid].append(event)
        elif event.ph == "E":
            if opened := self._open[event.pid, event.tid]:
                opened[-1].end_ts = event.ts
                return opened.pop()
            self._odd["events ended that did not begin: left out"] += 1
        elif event.ph:
            self._odd[f"events of phase {event.ph!r} are not understood: left out"] += 1
        else:
            self._odd[NO_EVENTS] += 1
        return None

    def _take(self, category: str, rows: list[Event]) -> None:
        if category in KINDS:
            self._take_kernels(KINDS[category], rows)
        elif category in LAUNCHES:
            self._add("launches", rows, columns_of.launches)
        elif category in HOST_OPS or category == ANNOTATION:
            self._take_host(rows)
            if self._ops and category != ANNOTATION:
                others = [row for row in rows if row.args is None or not row.args.category]
                self._add("ops", others, columns_of.ops)
        if category in (ANNOTATION, DEVICE_ANNOTATION):
            steps = [row for row in rows if STEP.match(str(row.name))]
            on_device = category == DEVICE_ANNOTATION
            self._add("steps", steps, columns_of.steps(on_device=on_device))

    def _take_kernels(self, kind: str, rows: list[Event]) -> None:
        carrying: list[Event] = []
        others: list[Event] = []
        for row in rows:
            carries = row.args is not None and (row.args.collective or row.args.group)
            (carrying if carries else others).append(row)
        self._add("kernels", others, columns_of.kernels(kind, carrying=False))
        self._add("kernels", carrying, columns_of.kernels(kind, carrying=True))

    def _take_host(self, rows: list[Event]) -> None:
        spans = [row for row in rows if row.args is not None and row.args.category]
        self._add("spans", spans, columns_of.spans)
        records = [row for row in rows if self._is_record[row.name]]
        self._add("collectives", records, columns_of.collectives)

    def _add(self, table: str, rows: list[Event], columns: RowsOf) -> None:
        """Append rows with their times; those without a start are left out."""
        start_ns = to_ns([row.ts for row in rows])
        if (start_ns == MISSING).any():
            rows = [row for row, start in zip(rows, start_ns, strict=True) if start != MISSING]
            self._odd["events do not say when they began: left out"] += len(start_ns) - len(rows)
            start_ns = start_ns[start_ns != MISSING]
        if rows:
            found = columns(rows, [row.args or NO_ARGS for row in rows])
            end_ns = self._ends(rows, start_ns)
            self._columns[table].add(len(rows), **found, start_ns=start_ns, end_ns=end_ns)

    def _ends(self, rows: list[Event], start_ns: np.ndarray) -> np.ndarray:
        length_ns = to_ns([row.dur for row in rows])
        end_ns = start_ns + np.where(length_ns == MISSING, 0, length_ns)
        for place in np.flatnonzero(length_ns == MISSING):
            if (end_ts := rows[place].end_ts) is not None:
                (end_ns[place],) = to_ns([end_ts])
                length_ns[place] = end_ns[place] - start_ns[place]
        unknown = int((length_ns < 0).sum())
        if unknown:
            self._odd["events do not say how long they took: taken as instants"] += unknown
        return np.maximum(end_ns, start_ns)


class _IsRecord(dict[object, bool]):
    """Whether an event of a name is a collective's; a name is looked at once."""

    def __missing__(self, name: object) -> bool:
        text = str(name)
        self[name] = found = text == RECORD or text.startswith(COLLECTIVES)
        return found
