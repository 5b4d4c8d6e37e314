"""The traces of a folder: which files they are, whose rank each is, and all of them read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from fapool.errors import ProfileFileError
from fapool.traces.readers import Readers
from fapool.traces.reading import read
from fapool.traces.schema import Trace

PROFILER, ANY = (".pt.trace.json", ".pt.trace.json.gz"), (".json", ".json.gz")


@dataclass(frozen=True, kw_only=True)
class TraceFolder:
    """Traces in order of their ranks, no rank twice; `notes` say what was left out."""

    path: Path
    traces: list[Trace]
    notes: list[str]


def trace_files(folder: Path | str) -> list[Path]:
    """Files that may be traces, sorted by name.

    Those named `*.pt.trace.json[.gz]`; where there are none, `*.json[.gz]`. They lie in the folder,
    or in its `trace/`, or anywhere below it. A file is its own folder.

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
            if found:
                return found
    raise ProfileFileError(
        "folder", str(folder), "holds no traces: no file *.pt.trace.json[.gz] or *.json[.gz]"
    )


def read_folder(folder: Path | str, *, ops: bool | None = False, processes: int = 1) -> TraceFolder:
    """Read all traces of a folder; files that are none are skipped, and said.

    A trace that does not know its rank gets the lowest that is free, in order of names. Of several
    of one rank the last by name is kept. With more than one process, files are read side by side;
    the caller's main module must then be importable without running it.

    Raises:
        ProfileFileError: there is no such folder, or no trace in it.
    """
    files, notes = trace_files(folder), []
    found: list[Trace] = []
    for path, one in zip(files, _read_all(files, ops, processes), strict=True):
        if isinstance(one, str):
            notes.append(f"{path.name} is skipped: {one}")
        else:
            found.append(one)
    if not found:
        raise ProfileFileError("folder", str(folder), "holds no traces; " + "; ".join(notes))
    return TraceFolder(path=Path(folder), traces=_one_a_rank(found, notes), notes=notes)


def _is_named(path: Path, endings: tuple[str, ...]) -> bool:
    return path.name.endswith(endings) and not path.name.startswith(".") and path.is_file()


def _read_all(files: list[Path], ops: bool | None, processes: int) -> Iterator[Trace | str]:
    one = partial(_read_or_say, ops=ops)
    if min(processes, len(files)) < 2:
        yield from map(one, files)
        return
    yield from Readers(one, files, processes).results()


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
