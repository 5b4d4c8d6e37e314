"""What is read of a rank beside its spans: memory by owner, keys by request, energy."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from fapool.instrument.energy import EnergyMeter, gauge_of
from fapool.instrument.memory import MemoryMeter
from fapool.instrument.recorder import Recorder
from fapool.instrument.snapshot import MemorySnapshot
from fapool.phases import Owner
from fapool.runtime.engine import Held
from fapool.runtime.kvbook import KVBook
from fapool.runtime.plans.base import Plan
from fapool.runtime.seat import Seat
from fapool.schedule import Step
from fapool.spec import Capture
from fapool.store import RunFolder
from fapool.topology import Place


class Readings:
    """One rank's meters; `memory` is told what is held."""

    def __init__(
        self,
        place: Place,
        device: torch.device,
        recorder: Recorder,
        folder: RunFolder,
        capture: Capture,
    ) -> None:
        self._recorder, self._enabled, self._due_ns = recorder, capture.memory, 0
        self.snapshot = MemorySnapshot(folder, place.rank, device, wanted=capture.memory_snapshot)
        self.memory = MemoryMeter(place.rank, device)
        self._kv = KVBook(place.rank)
        self._energy = EnergyMeter(place.rank, gauge_of(device), self._unix_ns)

    def ended(self) -> None:
        """The pass is over."""
        self._energy.end()
        self._due_ns = 0

    def hooks(self, repeat: int) -> dict[str, Callable]:
        """What the engine is to call before a pass, and as the host closes a step of it."""

        def note(step: Step, plan: Plan) -> None:
            if self._enabled:
                self._kv.note(repeat, step.index, plan.cache)

        # What asks the driver takes long: it comes before the ranks meet, and in no request's time.
        return {"starting": partial(self._energy.begin, repeat), "closing": note}

    def read(self, seat: Seat, plan: Plan, repeat: int, step: Step, held: Held) -> bool:
        """Read memory after a step, unless that was done just now; whether it was."""
        now = self._recorder.clock()
        if not self._enabled or now < self._due_ns:
            return False
        self._due_ns = now + self.memory.pause_ns
        self.memory.set(Owner.KV_USED, held.kv_bytes)
        self.memory.set(Owner.BUFFERS, seat.buffer_bytes + plan.held_bytes)
        self.memory.read(repeat, step.index, self._unix_ns())
        return True

    def columns(self, settle: Callable[[int], int]) -> dict[str, dict[str, Any]]:
        """Table -> its columns; `settle`: see `HostClock.settle`."""
        energy = self._energy.columns()
        times = {name: list(map(settle, energy[name])) for name in ("begin_ns", "end_ns")}
        return {
            "memory": self.memory.columns(settle),
            "kv": self._kv.columns(),
            "energy": energy | times,
        }

    def _unix_ns(self) -> int:
        return self._recorder.clock() + self._recorder.unix_offset_ns
