"""What an engine does for its client: runs inside the rank's process, sent there by reference.

The only module of the cluster that reaches the rank side; `entry` names the module there.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from ipyparallel.engine.datapub import publish_data

from fapool.sample import Sample
from fapool.spec import parse

SAMPLE = "sample"
"""Key of the newest sample among the data that a task has published."""


def describe(entry: str, rank: int) -> dict[str, Any]:
    """Load the rank side (torch and all) and say what this rank runs on."""
    return importlib.import_module(entry).describe(rank)


def open_store(entry: str) -> tuple[str, int]:
    """Open a fresh rendezvous on rank 0; (host, port)."""
    return importlib.import_module(entry).open_store()


def run(entry: str, spec: str, rank: int, store: tuple[str, int], folder: str) -> str:
    """Run one spec (JSON) as `rank`; "finished" or "stopped"."""
    return importlib.import_module(entry).run(
        parse(spec), rank=rank, store=tuple(store), folder=Path(folder), publish=_publish
    )


def _publish(sample: Sample) -> None:
    publish_data({SAMPLE: sample.model_dump()})
