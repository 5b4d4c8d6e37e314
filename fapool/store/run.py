"""One run's folder, open for reading."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from fapool import spec as specs
from fapool.errors import StoreError
from fapool.phases import SCHEMAS
from fapool.spec import RunSpec
from fapool.store.status import Status, is_alive, read_status, unreadable

MERGED = "merged.json.gz"  # not in trace/: HTA takes all that lies there for traces of ranks

LATER = ("kv", "energy")
"""Tables that the first runs do not have."""


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
            StoreError: the folder has no spec, or one that cannot be read.
            SpecError: it is not a spec of this version.
        """
        return specs.parse(self._bytes("spec.json").decode(errors="replace"))

    @property
    def status(self) -> Status:
        """How it ended; `interrupted` if its owner is gone without having closed it.

        Never raises for what the folder holds: a status that makes no sense is `unreadable`, with
        the reason, so that one broken folder does not hide the others.
        """
        try:
            status = read_status(self.path)
        except StoreError as error:
            return unreadable(self.path, str(error))
        if status.state == "started" and not is_alive(status):
            return status.model_copy(update={"state": "interrupted"})
        return status

    @property
    def environment(self) -> dict[str, Any]:
        """Machines, devices, versions, backends chosen, clock offsets."""
        return self._json("environment.json")

    @property
    def ranks(self) -> list[dict[str, Any]]:
        """What each rank recorded of itself in `environment`; empty where none of it is usable."""
        try:
            found = self.environment.get("ranks")
        except StoreError:  # it ended before it wrote any
            return []
        return [rank for rank in found if isinstance(rank, dict)] if isinstance(found, list) else []

    @property
    def correctness(self) -> dict[str, Any]:
        """The check against the one-device reference: `passed`, `error`, `tolerance`."""
        return self._json("correctness.json")

    def table(self, name: str) -> pd.DataFrame:
        """One of `fapool.phases.SCHEMAS`; empty where the run is older than the table.

        Raises:
            StoreError: the run has no such table, or a file that is cut short or lacks columns.
        """
        path = self.path / f"{name}.parquet"
        if name in LATER and not path.exists():
            return SCHEMAS[name].empty_table().to_pandas()
        if name not in SCHEMAS or not path.exists():
            raise StoreError(f"{self.name} has no table {name!r} ({self.status.state})")
        try:
            found = pq.read_table(path)
        except (pa.ArrowException, OSError) as error:
            raise self._broken(path.name, error) from None
        if missing := set(SCHEMAS[name].names) - set(found.column_names):
            raise self._broken(path.name, f"lacks {', '.join(sorted(missing))}")
        return found.to_pandas()

    @property
    def traces(self) -> list[Path]:
        """Profiler traces, by rank."""
        found = (self.path / "trace").glob("rank*.pt.trace.json.gz")
        return sorted(found, key=lambda path: int(path.name.split(".")[0].removeprefix("rank")))

    @property
    def merged(self) -> Path:
        """All ranks' trace on one clock, if the run came to writing it."""
        return self.path / MERGED

    def _json(self, name: str) -> dict[str, Any]:
        try:
            found = orjson.loads(self._bytes(name))
        except orjson.JSONDecodeError as error:
            raise self._broken(name, error) from None
        if not isinstance(found, dict):
            raise self._broken(name, "not a JSON object")
        return found

    def _bytes(self, name: str) -> bytes:
        path = self.path / name
        if not path.exists():
            raise StoreError(f"{self.name} has no {name} ({self.status.state})")
        try:
            return path.read_bytes()
        except OSError as error:
            raise self._broken(name, error.strerror) from None

    def _broken(self, file: str, why: object) -> StoreError:
        return StoreError(
            f"{self.path}: its {file} is cut short or damaged ({why}); copy the folder anew, or "
            "run its spec again"
        )
