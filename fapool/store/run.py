"""One run's folder, open for reading."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pandas as pd
import pyarrow.parquet as pq

from fapool import spec as specs
from fapool.errors import StoreError
from fapool.phases import TABLES
from fapool.spec import RunSpec
from fapool.store.status import Status, is_alive, read_status


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
        """What was to be run.

        Raises:
            StoreError: the folder has no spec.
        """
        if not (self.path / "spec.json").exists():
            raise StoreError(f"{self.name} has no spec.json ({self.status.state})")
        return specs.parse((self.path / "spec.json").read_text())

    @property
    def status(self) -> Status:
        """How it ended; `interrupted` if its owner is gone without having closed it."""
        status = read_status(self.path)
        if status.state == "started" and not is_alive(status):
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
