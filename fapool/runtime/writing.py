"""What ranks leave in their run's folder: each its tables, and one of them what is whole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fapool.instrument.clocks import of_ranks
from fapool.instrument.merged import write_merged
from fapool.store import RunFolder


def write_own(
    folder: RunFolder, rank: int, tables: Mapping[str, dict[str, Any]], about: dict[str, Any]
) -> None:
    """One rank's rows of each table, and what it says of itself."""
    for name, columns in tables.items():
        folder.write_part(name, rank, columns)
    folder.write_json(f"ranks/{rank}.json", about)


def join(folder: RunFolder, world: int) -> None:
    """Everybody's tables, environments and spans as one; after all have written theirs."""
    folder.merge_parts()
    ranks = [folder.read_json(f"ranks/{rank}.json") for rank in range(world)]
    folder.write_json("environment.json", {"ranks": ranks, "clock": of_ranks(ranks)})
    write_merged(folder)
