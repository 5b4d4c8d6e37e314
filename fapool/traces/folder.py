"""The traces of a folder: which files they are, whose rank each is, and all of them read."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from fapool.errors import ProfileFileError
from fapool.traces.readers import Readers
from fapool.traces.reading import read
from fapool.traces.schema import Trace

SMALL_BYTES = 4_000_000
"""Traces that together are smaller are read faster than other processes start."""

PROFILER, ANY = (".pt.trace.json", ".pt.trace.json.gz"), (".json", ".json.gz")
RUN = "spec.json", "status.json"
"""A folder that holds these is a run's: no JSON in it is a trace but by a profiler's name."""

NO_TRACES = "holds no traces: no file *.pt.trace.json[.gz] or *.json[.gz]"
RUN_HAS_NONE = (
    "this run has no traces of the profiler: set capture.profile_steps in its spec and run it "
    "again (`python -m fapool show RUN` has its live level)"
)


@dataclass(frozen=True, kw_only=True)
class TraceFolder:
    """Traces in order of their ranks, no rank twice; `notes` say what was left out."""

    path: Path
    traces: list[Trace]
    notes: list[str]


def trace_files(folder: Path | str) -> list[Path]:
    """Files that may be traces, sorted by name.

    Those named `*.pt.trace.json[.gz]`; where there are none, `*.json[.gz]` but for a run's own
    files. They lie in the folder, or in its `trace/`, or anywhere below it. A file is its own
    folder.

    Raises:
        ProfileFileError: there is no such folder, or no such file in it.
    """
    folder = Path(folder)
    if folder.is_file():
        return [folder]
    if not folder.is_dir():
        raise ProfileFileError("folder", str(folder), "there is no such folder")
    for endings in (PROFILER, ANY):
        for place in (folder.glob("*"), (folder / "trace").glob("*"), folder.rglob("*")):
            found = sorted(path for path in place if _is_named(path, endings))
            if endings is ANY:
                found = [path for path in found if not _is_of_run(path.parent)]
            if found:
                return found
    said = RUN_HAS_NONE if _is_of_run(folder) else NO_TRACES
    raise ProfileFileError("folder", str(folder), said)


class Reading:
    """The traces of a folder being read; with several processes this begins at once."""

    def __init__(
        self, folder: Path | str, *, ops: bool | None = False, processes: int | None = 1
    ) -> None:
        """As `read_folder`; raises where there is no file to read."""
        self._folder, self._files = Path(folder), trace_files(folder)
        self._read = partial(_read_or_say, ops=ops)
        if processes is None:
            processes = 1 if _are_small(self._files) else os.cpu_count() or 1
        side_by_side = min(processes, len(self._files)) > 1
        self._readers = Readers(self._read, self._files, processes) if side_by_side else None

    def result(self) -> TraceFolder:
        """All of them, once only; as `read_folder`."""
        found: list[Trace] = []
        notes: list[str] = []
        results = self._readers.results() if self._readers else map(self._read, self._files)
        for path, one in zip(self._files, results, strict=True):
            if isinstance(one, str):
                notes.append(f"{path.name} is skipped: {one}")
            else:
                found.append(one)
        if not found:
            said = "; ".join(notes)
            raise ProfileFileError("folder", str(self._folder), f"holds no traces; {said}")
        return TraceFolder(path=self._folder, traces=_one_a_rank(found, notes), notes=notes)


def read_folder(
    folder: Path | str, *, ops: bool | None = False, processes: int | None = 1
) -> TraceFolder:
    """Read all traces of a folder; files that are none are skipped, and said.

    A trace that does not know its rank gets the lowest that is free, in order of names. Of several
    of one rank the last by name is kept. With more than one process, files are read side by side;
    the caller's main module must then be importable without running it. None takes one a core
    where files are large.

    Raises:
        ProfileFileError: there is no such folder, or no trace in it, or a process that reads died.
    """
    return Reading(folder, ops=ops, processes=processes).result()


def _is_named(path: Path, endings: tuple[str, ...]) -> bool:
    return path.name.endswith(endings) and not path.name.startswith(".") and path.is_file()


def _is_of_run(folder: Path) -> bool:
    folder = folder.absolute()
    return any(all((at / name).is_file() for name in RUN) for at in (folder, *folder.parents))


def _are_small(files: list[Path]) -> bool:
    return sum(path.stat().st_size for path in files) < SMALL_BYTES


def _read_or_say(path: Path, *, ops: bool | None) -> Trace | str:
    """The trace, or why the file is none."""
    try:
        return read(path, ops=ops)
    except ProfileFileError as error:
        return error.way_out


def _one_a_rank(traces: list[Trace], notes: list[str]) -> list[Trace]:
    by_rank: dict[int, Trace] = {}
    for trace in traces:
        if trace.rank in by_rank and trace.rank >= 0:
            notes.append(f"{by_rank[trace.rank].path.name} is skipped: a later one is of its rank")
        if trace.rank >= 0:
            by_rank[trace.rank] = trace
    nameless = [trace for trace in traces if trace.rank < 0]
    free = (rank for rank in range(len(traces)) if rank not in by_rank)
    for trace, rank in zip(nameless, list(free), strict=False):
        said = "the trace does not say its rank: numbered in order of names"
        by_rank[rank] = replace(trace, rank=rank, notes=[*trace.notes, said])
    return [by_rank[rank] for rank in sorted(by_rank)]
