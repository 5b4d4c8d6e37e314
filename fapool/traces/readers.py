"""Processes that read files side by side."""

from __future__ import annotations

import ctypes
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TypeVar

from fapool.errors import ProfileFileError

T = TypeVar("T")

KEPT_BYTES = 1 << 26
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_DIED = (
    "the process that read it died, alone too: it was killed, or memory is short; "
    "trace fewer steps, or move the file out of the folder"
)


class Readers:
    """`read` is called with each of `files` in other processes, which start at once."""

    def __init__(self, read: Callable[[Path], T], files: list[Path], processes: int) -> None:
        self._read, self._files = read, files
        self._pool = _pool(min(processes, len(files)))
        self._found: list[Future[T]] = [self._pool.submit(read, path) for path in files]

    def results(self) -> Iterator[T]:
        """What `read` gave for each file, in order; waits for it.

        Where a process dies, the files that are not read yet are read again, one at a time.

        Raises:
            ProfileFileError: a process died over one file alone.
        """
        with self._pool:
            for path, found in zip(self._files, self._found, strict=True):
                try:
                    yield found.result()
                except BrokenProcessPool:
                    yield self._alone(path)

    def _alone(self, path: Path) -> T:
        with _pool(1) as pool:
            try:
                return pool.submit(self._read, path).result()
            except BrokenProcessPool:
                raise ProfileFileError("trace", str(path), _DIED) from None


def _pool(processes: int) -> ProcessPoolExecutor:
    # spawned, for a fork of a process that has threads may hang
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(processes, mp_context=context, initializer=_keep_freed_memory)


def _keep_freed_memory() -> None:
    """Have malloc keep what a block of text leaves for the next one.

    By default it gives this back to the system, and every block faults its pages in again: 354,000
    faults for a million events, and most of the time that the system took for them.
    """
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):  # glibc's alone
        mallopt(_TRIM_THRESHOLD, KEPT_BYTES)
        mallopt(_MMAP_THRESHOLD, KEPT_BYTES // 2)
