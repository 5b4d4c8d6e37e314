"""The graphs of a traced run: which nodes belong to which span, as its rank wrote them down."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Owner:
    """Labels of a span in a graph; `phase` "" where nodes lie outside of all spans.

    `channel` joins by commas the channels of the exchanges that it serves. `sequence` is the number
    of its capture: see `fapool.phases.replayed_sequence`.
    """

    phase: str
    layer: int
    micro_batch: int
    channel: str
    sequence: int
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Graph:
    """One captured graph. Where `note` says why its nodes are unknown, it has none.

    `nodes`: (kind, name) of those that leave a record in a trace, in order of capture; `owner_of`
    int64 [nodes]: place of each node's owner in `owners`.
    """

    number: int
    sampled: bool  # with timing events at the borders of its spans
    note: str
    owners: tuple[Owner, ...]
    nodes: tuple[tuple[str, str], ...]
    owner_of: NDArray[np.int64]


def graphs_name(rank: int) -> str:
    """The file's name, beside the rank's trace: HTA takes any *.json there for a trace."""
    return f"graphs.{rank}.jsonl"


def graph_lines(entries: Iterable[dict[str, Any]]) -> bytes:
    """The file: one graph a line, as `read_graphs` reads it."""
    return b"".join(orjson.dumps(entry) + b"\n" for entry in entries)


def read_graphs(folder: Path, rank: int) -> tuple[dict[int, Graph], list[str]]:
    """The graphs of one rank's trace in `folder`, by number, and what could not be understood."""
    path = folder / graphs_name(rank)
    if not path.exists():
        return {}, []
    try:
        entries = map(orjson.loads, path.read_bytes().splitlines())
        return {graph.number: graph for graph in map(_graph, entries)}, []
    except (OSError, ValueError, KeyError, TypeError) as error:
        return {}, [f"{path.name} cannot be read ({error!r}): kernels of graphs have no spans"]


def _graph(entry: dict[str, Any]) -> Graph:
    runs = entry["runs"]
    counts = [len(run["nodes"]) for run in runs]
    return Graph(
        number=int(entry["graph"]),
        sampled=bool(entry["sampled"]),
        note=str(entry["note"]),
        owners=tuple(_owner(run) for run in runs),
        nodes=tuple((str(kind), str(name)) for run in runs for kind, name in run["nodes"]),
        owner_of=np.repeat(np.arange(len(runs)), counts),
    )


def _owner(run: dict[str, Any]) -> Owner:
    return Owner(
        phase=run["phase"],
        layer=int(run["layer"]),
        micro_batch=int(run["micro_batch"]),
        channel=",".join(run["channels"]),
        sequence=int(run["sequence"]),
        bytes=sum(run["bytes"]),
    )
