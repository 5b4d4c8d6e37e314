"""How far a run got, and whether its owner is still there."""

from __future__ import annotations

import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import psutil
from pydantic import BaseModel, ConfigDict, ValidationError

from fapool.errors import StoreError

State = Literal["started", "finished", "stopped", "failed", "interrupted", "unreadable"]


class Status(BaseModel):
    """How far a run got. Readers conclude `interrupted` and `unreadable`: never written."""

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


def now() -> str:
    """ISO 8601, UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def read_status(path: Path) -> Status:
    """What `status.json` in a run folder says.

    Raises:
        StoreError: it cannot be read, is not JSON, or is not a status of this version.
    """
    try:
        return Status.model_validate_json((path / "status.json").read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        why = ": ".join([*map(str, first["loc"]), first["msg"]])
    except OSError as error:
        why = str(error.strerror)
    raise StoreError(
        f"{path}: its status.json cannot be read ({why}); open the run with the version of "
        "fapool that wrote it, or remove the folder"
    )


def unreadable(path: Path, reason: str) -> Status:
    """Stands for what `read_status` refuses: nobody's, and as old as its folder."""
    written = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    return Status(
        state="unreadable",
        started_at=written.isoformat(timespec="milliseconds"),
        host="",
        pid=0,
        pid_started=0.0,
        reason=reason,
    )


def is_alive(status: Status) -> bool:
    """Whether the process that owns a folder runs; True where it is another host's to say."""
    if status.host != socket.gethostname():
        return True  # not ours to judge
    try:
        return abs(psutil.Process(status.pid).create_time() - status.pid_started) < 1.0
    except psutil.NoSuchProcess:
        return False
