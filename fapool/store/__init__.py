"""A run is a folder of JSON and Parquet: create, write, finish, list, read. Never pickle.

A run is written under `<name>.partial` and renamed when it has ended, so that no folder without
that suffix is ever half written; `status.json` says how it ended. Readers see:

    spec.json status.json environment.json correctness.json
    events.parquet steps.parquet requests.parquet memory.parquet
    trace/rank<r>.<unix ns>.pt.trace.json.gz trace/merged.json.gz report.html ranks/<r>.log
"""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import psutil

from fapool.errors import StoreError
from fapool.spec import RunSpec
from fapool.store.folder import PARTIAL, WHOLE, RunFolder
from fapool.store.run import Run
from fapool.store.status import State, Status, now

__all__ = ["PARTIAL", "WHOLE", "Run", "RunFolder", "State", "Status", "Store"]


class Store:
    """A folder of runs: the argument, else $FAPOOL_PROFILES, else the repository's `profiles/`."""

    def __init__(self, root: Path | str | None = None) -> None:
        default = Path(__file__).resolve().parents[2] / "profiles"
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
            started_at=now(),
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
        found = [Run(path) for path in self.root.iterdir() if (path / "status.json").exists()]
        return sorted(found, key=lambda run: (run.status.started_at, run.name))

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
