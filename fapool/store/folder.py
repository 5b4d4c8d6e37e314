"""One run's folder, open for writing."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from fapool.errors import StoreError
from fapool.phases import SCHEMAS, TABLES
from fapool.store.run import Run
from fapool.store.status import State, now, read_status

PARTIAL = ".partial"
WHOLE = ("spec.json", "environment.json", "correctness.json", *(f"{t}.parquet" for t in TABLES))
TAIL_LINES = 20


class RunFolder:
    """One run's folder, open for writing, by its owner or by a rank."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    @property
    def stop_file(self) -> Path:
        """Its existence asks the ranks to stop, which they do within a few steps."""
        return self.path / "stop"

    def log(self, rank: int) -> Path:
        """The log of one rank."""
        return self.path / "ranks" / f"{rank}.log"

    def trace(self, rank: int, unix_ns: int) -> Path:
        """A profiler trace of one rank, named as TensorBoard's plugin and HTA expect."""
        return self.path / "trace" / f"rank{rank}.{unix_ns}.pt.trace.json.gz"

    def log_tail(self, rank: int) -> str:
        """The last lines that a rank wrote; empty if it wrote none."""
        if not self.log(rank).exists():
            return ""
        text = self.log(rank).read_text(errors="replace")
        return "\n".join(text.splitlines()[-TAIL_LINES:])

    def note_failure(self, rank: int, reason: str) -> None:
        """Leave word of why a rank ended; the earliest such word is the cause (`first_failure`)."""
        note = {"time_ns": time.time_ns(), "rank": rank, "reason": reason}
        self.write_json(f"ranks/{rank}.failure.json", note)

    def first_failure(self) -> tuple[int, str] | None:
        """(rank, reason) of the rank that failed first; None if none left word."""
        notes = [orjson.loads(p.read_bytes()) for p in self.path.glob("ranks/*.failure.json")]
        if not notes:
            return None
        first = min(notes, key=lambda note: note["time_ns"])
        return first["rank"], first["reason"]

    @property
    def environment(self) -> dict[str, Any]:
        """What the ranks recorded of their machines and clocks; empty until they have."""
        name = "environment.json"
        return self.read_json(name) if (self.path / name).exists() else {}

    def read_json(self, name: str) -> Any:
        """What `write_json` wrote."""
        return orjson.loads((self.path / name).read_bytes())

    def write_json(self, name: str, value: Any) -> None:
        """Write one JSON file, all of it or nothing."""
        data = orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS)
        self.write_bytes(name, data)

    def write_bytes(self, name: str, data: bytes) -> None:
        """Write one file, all of it or nothing."""
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = target.with_name(f".{target.name}.{os.getpid()}")
        scratch.write_bytes(data)
        scratch.replace(target)

    def write_part(self, table: str, rank: int, columns: Mapping[str, Any]) -> None:
        """Write one rank's rows of a table. `columns`: name -> values, as the schema names them."""
        assert set(columns) == set(SCHEMAS[table].names), f"columns of {table}: {sorted(columns)}"
        part = pa.table(dict(columns), schema=SCHEMAS[table])
        (self.path / "parts").mkdir(exist_ok=True)
        pq.write_table(part, self.path / "parts" / f"{table}.{rank}.parquet")

    def merge_parts(self) -> None:
        """Join what the ranks wrote into one file a table, in order of rank."""
        for table, schema in SCHEMAS.items():
            files = sorted(
                (self.path / "parts").glob(f"{table}.*.parquet"),
                key=lambda file: int(file.name.split(".")[1]),
            )
            if not files and table not in TABLES:
                continue
            parts = [pq.read_table(file, schema=schema) for file in files]
            merged = pa.concat_tables(parts) if parts else schema.empty_table()
            pq.write_table(merged, self.path / f"{table}.parquet", compression="zstd")
        shutil.rmtree(self.path / "parts", ignore_errors=True)

    def finish(self, state: Literal["finished", "stopped"] = "finished") -> Run:
        """Close the folder under its own name.

        Raises:
            StoreError: something that a whole run holds is missing; the folder stays partial.
        """
        missing = [name for name in WHOLE if not (self.path / name).exists()]
        if missing:
            raise StoreError(f"{self.path.name} lacks {', '.join(missing)}: not a whole run")
        return self._close(state)

    def fail(self, *, rank: int, reason: str, log_tail: str = "") -> Run:
        """Close the folder as failed, keeping all that was written."""
        return self._close("failed", rank=rank, reason=reason, log_tail=log_tail)

    def _close(self, state: State, **why: Any) -> Run:
        self.stop_file.unlink(missing_ok=True)
        status = read_status(self.path)
        ended = status.model_copy(update={"state": state, "ended_at": now(), **why})
        self.write_json("status.json", ended.model_dump())
        final = self.path.with_name(self.path.name.removesuffix(PARTIAL))
        self.path.rename(final)
        self.path = final
        return Run(final)
