"""Every allocation of one rank with its stack, in the file that PyTorch's memory viewer opens.

Torch writes it, and nothing here ever reads it: it is a pickle. It knows what torch's allocator
gave out; memory that ranks share (`exchange/arena.py`) is not from there.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from fapool.store import RunFolder

LOG = logging.getLogger("fapool")
MAX_EVENTS = 20_000
"""Allocations and frees that are kept, the latest; several KB each in the file."""

NO_GPU = "none: torch keeps a history of CUDA memory alone"


class MemorySnapshot:
    """The history of one rank's device, on only where a `with` says so; off, it costs nothing."""

    def __init__(self, folder: RunFolder, rank: int, device: torch.device, *, wanted: bool) -> None:
        self._folder, self._name, self._device = folder, f"memory/rank{rank}.pickle", device
        self.possible = wanted and device.type == "cuda"
        self.said: str | None = None
        """The file's name in the folder, or why there is none; None where none is wanted."""
        if wanted and not self.possible:
            self.said = NO_GPU
            LOG.warning("memory snapshot: %s", NO_GPU)

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Meanwhile allocations are kept with the Python stack that asked for them."""
        if not self.possible:
            yield
            return
        torch.cuda.memory._record_memory_history(
            enabled="all", context="all", stacks="python", max_entries=MAX_EVENTS
        )
        try:
            yield
        finally:
            torch.cuda.memory._record_memory_history(enabled=None)

    def write(self) -> None:
        """What is allocated now, and what happened since the latest `recording` began."""
        if not self.possible:
            return
        path = self._folder.path / self._name
        path.parent.mkdir(exist_ok=True)
        scratch = path.with_name(f".{path.name}")
        torch.cuda.memory._dump_snapshot(str(scratch))
        scratch.replace(path)
        self.said = self._name
