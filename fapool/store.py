"""A run is a folder of JSON and Parquet: create, write, finish, list, read. Never pickle.

A run is written under `<name>.partial` and renamed when it has ended, so that no folder without
that suffix is ever half written; `status.json` says how it ended. Readers see:

    spec.json status.json environment.json correctness.json
    events.parquet steps.parquet requests.parquet memory.parquet
    trace/rank<r>.<unix ns>.pt.trace.json.gz trace/merged.json.gz report.html ranks/<r>.log
"""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import orjson
import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict

from fapool import spec as specs
from fapool.errors import StoreError
from fapool.phases import TABLES
from fapool.spec import RunSpec

PARTIAL = ".partial"
WHOLE = ("spec.json", "environment.json", "correctness.json", *(f"{t}.parquet" for t in TABLES))
TAIL_LINES = 20

State = Literal["started", "finished", "stopped", "failed", "interrupted"]


class Status(BaseModel):
    """How far a run got. `interrupted` is never written: a reader concludes it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    state: State
    started_at: str  # ISO 8601, UTC
    ended_at: str | None = None
    host: str
    pid: int  # of the process that owns the folder
    pid_started: float  # its creation time, seconds since the epoch: a pid alone may be reused
    rank: int | None = None  # that failed
    reason: str | None = None
    log_tail: str | None = None


class RunFolder:
    """One run's folder, open for writing, by its owner or by a rank."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    @property
    def stop_file(self) -> Path:
        """Its existence asks the ranks to stop after the step that they are in."""
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
        part = pa.table(dict(columns), schema=TABLES[table])
        (self.path / "parts").mkdir(exist_ok=True)
        pq.write_table(part, self.path / "parts" / f"{table}.{rank}.parquet")

    def merge_parts(self) -> None:
        """Join what the ranks wrote into one file a table, in order of rank."""
        for table, schema in TABLES.items():
            files = sorted(
                (self.path / "parts").glob(f"{table}.*.parquet"),
                key=lambda file: int(file.name.split(".")[1]),
            )
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
        status = _read_status(self.path)
        ended = status.model_copy(update={"state": state, "ended_at": _now(), **why})
        self.write_json("status.json", ended.model_dump())
        final = self.path.with_name(self.path.name.removesuffix(PARTIAL))
        self.path.rename(final)
        self.path = final
        return Run(final)


class Run:
    """One run's folder, open for reading."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        if not (self.path / "status.json").exists():
            raise StoreError(f"{self.path} is not a run folder: it has no status.json")

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.name

    @property
    def spec(self) -> RunSpec:
        """What was to be run."""
        return specs.parse((self.path / "spec.json").read_text())

    @property
    def status(self) -> Status:
        """How it ended; `interrupted` if its owner is gone without having closed it."""
        status = _read_status(self.path)
        if status.state == "started" and not _is_alive(status):
            return status.model_copy(update={"state": "interrupted"})
        return status

    @property
    def environment(self) -> dict[str, Any]:
        """Machines, devices, versions, backends chosen, clock offsets."""
        return self._json("environment.json")

    @property
    def correctness(self) -> dict[str, Any]:
        """The check against the one-device reference: `passed`, `error`, `tolerance`."""
        return self._json("correctness.json")

    def table(self, name: str) -> pd.DataFrame:
        """One of `events`, `steps`, `requests`, `memory` (columns: `fapool.phases`).

        Raises:
            StoreError: the run has no such table.
        """
        path = self.path / f"{name}.parquet"
        if name not in TABLES or not path.exists():
            raise StoreError(f"{self.name} has no table {name!r} ({self.status.state})")
        return pq.read_table(path).to_pandas()

    @property
    def traces(self) -> list[Path]:
        """Profiler traces, by rank."""
        found = (self.path / "trace").glob("rank*.pt.trace.json.gz")
        return sorted(found, key=lambda path: int(path.name.split(".")[0].removeprefix("rank")))

    def _json(self, name: str) -> dict[str, Any]:
        path = self.path / name
        if not path.exists():
            raise StoreError(f"{self.name} has no {name} ({self.status.state})")
        return orjson.loads(path.read_bytes())


class Store:
    """A folder of runs: the argument, else $FAPOOL_PROFILES, else the repository's `profiles/`."""

    def __init__(self, root: Path | str | None = None) -> None:
        default = Path(__file__).resolve().parent.parent / "profiles"
        self.root = Path(root or os.environ.get("FAPOOL_PROFILES") or default).absolute()

    def create(self, spec: RunSpec) -> RunFolder:
        """A new partial folder that holds the spec and says `started`."""
        self.root.mkdir(parents=True, exist_ok=True)
        stem = f"{time.strftime('%Y%m%d-%H%M%S')}-{_slug(spec)}-{spec.fingerprint[:6]}"
        for attempt in range(1000):
            name = stem if not attempt else f"{stem}-{attempt}"
            folder = RunFolder(self.root / (name + PARTIAL))
            if (self.root / name).exists():
                continue
            try:
                folder.path.mkdir()
            except FileExistsError:
                continue
            break
        for part in ("ranks", "trace", "parts"):
            (folder.path / part).mkdir()
        folder.write_bytes("spec.json", spec.to_json().encode())
        me = psutil.Process()
        status = Status(
            state="started",
            started_at=_now(),
            host=socket.gethostname(),
            pid=me.pid,
            pid_started=me.create_time(),
        )
        folder.write_json("status.json", status.model_dump())
        return folder

    def runs(self) -> list[Run]:
        """All runs, oldest first; folders that are no runs are passed over."""
        if not self.root.is_dir():
            return []
        folders = sorted(path for path in self.root.iterdir() if (path / "status.json").exists())
        return [Run(path) for path in folders]

    def open(self, name: str | Path) -> Run:
        """A run by its name or path.

        Raises:
            StoreError: there is none.
        """
        path = Path(name) if Path(name).is_absolute() else self.root / name
        for candidate in (path, path.with_name(path.name + PARTIAL)):
            if (candidate / "status.json").exists():
                return Run(candidate)
        raise StoreError(f"no run {str(name)!r} under {self.root}")


def _slug(spec: RunSpec) -> str:
    plan = str(spec.plan).lower().replace("(", "-").replace(")", "").replace(",", "-")
    return f"{spec.name}-{plan}" if spec.name else plan


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _read_status(path: Path) -> Status:
    return Status.model_validate_json((path / "status.json").read_bytes())


def _is_alive(status: Status) -> bool:
    if status.host != socket.gethostname():
        return True  # not ours to judge
    try:
        return abs(psutil.Process(status.pid).create_time() - status.pid_started) < 1.0
    except psutil.NoSuchProcess:
        return False
