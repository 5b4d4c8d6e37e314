"""A run is a folder of JSON and Parquet: create, write, finish, list, read. Never pickle.

A run is written under `<name>.partial` and renamed when it has ended, so that no folder without
that suffix is ever half written; `status.json` says how it ended. Readers see:

    spec.json status.json environment.json correctness.json
    events.parquet steps.parquet requests.parquet memory.parquet kv.parquet energy.parquet
    trace/rank<r>.<unix ns>.pt.trace.json.gz trace/graphs.<r>.jsonl merged.json.gz
    report.html ranks/<r>.log
    memory/rank<r>.pickle (for PyTorch's memory viewer; nothing here reads it)
"""

from __future__ import annotations

import itertools
import os
import re
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from fapool.errors import StoreError
from fapool.spec import RunSpec
from fapool.store.folder import PARTIAL, WHOLE, RunFolder
from fapool.store.run import MERGED, Run
from fapool.store.status import State, Status, now

__all__ = ["MERGED", "PARTIAL", "WHOLE", "Run", "RunFolder", "State", "Status", "Store"]


class Store:
    """A folder of runs: the argument, else $FAPOOL_PROFILES, else the repository's `profiles/`."""

    def __init__(self, root: Path | str | None = None) -> None:
        default = Path(__file__).resolve().parents[2] / "profiles"
        self.root = Path(root or os.environ.get("FAPOOL_PROFILES") or default).absolute()

    def prepare(self) -> None:
        """Make the store's folder if it is not there yet, and write in it once.

        Raises:
            StoreError: it cannot be made or written; says which folder, and to choose another.
        """
        with self._writing():
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self.root, prefix=".probe-"):
                pass

    def create(self, spec: RunSpec) -> RunFolder:
        """A new partial folder that holds the spec and says `started`.

        Raises:
            StoreError: the store cannot be written.
        """
        with self._writing():
            self.root.mkdir(parents=True, exist_ok=True)
            folder = self._new_folder(spec)
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
        """All runs, oldest first; folders that are no runs are passed over.

        A run whose status makes no sense is among them, as `unreadable`.

        Raises:
            StoreError: the store is no folder, or may not be read.
        """
        if not self.root.exists():
            return []
        try:
            found = [Run(path) for path in self.root.iterdir() if (path / "status.json").exists()]
        except OSError as error:
            raise self._unusable("read", error) from None
        return sorted(found, key=lambda run: (run.status.started_at, run.name))

    def open(self, name: str | Path) -> Run:
        """A run by its name or path.

        Raises:
            StoreError: there is none.
        """
        path = Path(name) if Path(name).is_absolute() else self.root / name
        for candidate in (path, Path(f"{path}{PARTIAL}")):
            if (candidate / "status.json").exists():
                return Run(candidate)
        raise StoreError(f"no run {str(name)!r} under {self.root}")

    def _new_folder(self, spec: RunSpec) -> RunFolder:
        stem = f"{time.strftime('%Y%m%d-%H%M%S')}-{_slug(spec)}-{spec.fingerprint[:6]}"
        for attempt in itertools.count():
            name = stem if not attempt else f"{stem}-{attempt}"
            folder = RunFolder(self.root / (name + PARTIAL))
            if (self.root / name).exists():
                continue
            try:
                folder.path.mkdir()
            except FileExistsError:
                continue
            return folder

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._unusable("written", error) from None

    def _unusable(self, act: str, error: OSError) -> StoreError:
        why = f"cannot be {act} ({error.strerror})" if self.root.is_dir() else "is not a folder"
        if not self.root.exists():
            why = f"cannot be made ({error.strerror})"
        return StoreError(
            f"the store {self.root} {why}; choose another with --store or FAPOOL_PROFILES"
        )


def _slug(spec: RunSpec) -> str:
    plan = re.sub(r"[^a-z0-9]+", "-", str(spec.plan).lower()).strip("-")
    return f"{spec.name}-{plan}" if spec.name else plan
