"""The ranks at hand: started once, kept warm, one run at a time."""

from __future__ import annotations

import atexit
from collections import Counter
from collections.abc import Callable
from typing import Any, Literal

import psutil

from fapool.cluster.engines import Engines
from fapool.cluster.execution import Execution
from fapool.cluster.patience import Patience
from fapool.errors import FapoolError, SpecError
from fapool.forecast.memory import check_fits
from fapool.spec import RunSpec, check_device
from fapool.store import Store
from fapool.topology import check_ranks


def _silent(text: str) -> None:
    """Progress that nobody asked for."""


def check_number(n: int) -> None:
    """Refuse what is no number of ranks.

    Raises:
        SpecError: it is no whole number, or below one.
    """
    if not isinstance(n, int) or isinstance(n, bool) or n < 1:
        raise SpecError("ranks", n, "start at least one")


class Ranks:
    """Warm ranks on ipyparallel engines; survives a failed run by replacing what died."""

    def __init__(self, engines: Engines, *, start_s: float) -> None:
        self._engines, self._start_s = engines, start_s
        self._execution: Execution | None = None
        self._described = engines.describe()
        atexit.register(self.close)

    @classmethod
    def start(
        cls,
        n: int,
        *,
        on_progress: Callable[[str], None] = _silent,
        timeout_s: float = 90,
        patience: Patience | None = None,
        entry: str = "fapool.rank",
    ) -> Ranks:
        """Start `n` local ranks and load torch on each; blocks until they are ready.

        `entry` is the module that a rank runs: `describe`, `open_store`, `run`, as in
        `fapool.rank`. Ranks that die are replaced by the next `run`; `on_progress` hears of it.

        Raises:
            SpecError: `n` is no number of ranks.
            FapoolError: they did not come up within `timeout_s` seconds; nothing is left.
        """
        check_number(n)
        engines = Engines(n, entry=entry, patience=patience or Patience(), tell=on_progress)
        try:
            engines.restore(timeout_s)
        except BaseException:
            engines.close()
            raise
        return cls(engines, start_s=timeout_s)

    @property
    def n(self) -> int:
        """How many there are."""
        return self._engines.n

    @property
    def busy(self) -> bool:
        """Whether a run goes on."""
        return self._execution is not None and not self._execution.done

    def describe(self) -> list[dict[str, Any]]:
        """Of each rank: host, pid, device ("cpu" or "cuda:<i>"), device_name, capacity_bytes.

        Between the death of a rank and the next run, the last that was known.
        """
        described = self._engines.describe()
        if len(described) == self.n:
            self._described = described
        return self._described

    def check(self, spec: RunSpec) -> None:
        """Refuse a spec that these ranks cannot run; starts nothing.

        Raises:
            SpecError: too few ranks, no such device, a kernel or a transport that it does not
                have, or too little memory.
            TraceFileError: the workload's trace cannot be read.
        """
        check_ranks(spec, self.n)
        described = self.describe()[: spec.plan.world]
        if spec.device == "cuda" and any(rank["device"] == "cpu" for rank in described):
            raise SpecError("device", spec.device, "the ranks at hand have none; choose cpu")
        if spec.device == "auto":
            for device in sorted({_kind(rank) for rank in described}):
                check_device(spec, device)
        check_fits(spec, _capacities(spec, described))

    def run(self, spec: RunSpec, store: Store) -> Execution:
        """Run `spec` on the first ranks, into a new folder of `store`; returns at once.

        Raises:
            SpecError: these ranks cannot run it; no folder was made.
            FapoolError: another run goes on, or the ranks are closed.
        """
        if self.busy:
            raise FapoolError("a run goes on; stop it, or wait for its end")
        if self._engines.closed:
            raise FapoolError("these ranks are closed; start new ones")
        self.check(spec)
        folder = store.create(spec)
        self._execution = Execution(spec, folder, self._engines, start_s=self._start_s)
        return self._execution

    def close(self) -> None:
        """End all processes, a run that goes on as failed. May be called again."""
        atexit.unregister(self.close)
        self._engines.closed = True
        if self._execution is not None and self.busy:
            self._execution.abandon()
        self._engines.close()

    def __enter__(self) -> Ranks:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _kind(rank: dict[str, Any]) -> Literal["cpu", "cuda"]:
    return "cpu" if rank["device"] == "cpu" else "cuda"


def _capacities(spec: RunSpec, described: list[dict[str, Any]]) -> list[int]:
    """Bytes that each rank may fill: ranks on one device share it evenly."""
    places = [
        (rank["host"], "cpu" if spec.device == "cpu" else rank["device"]) for rank in described
    ]
    crowd = Counter(places)
    return [
        (psutil.virtual_memory().total if place[1] == "cpu" else rank["capacity_bytes"])
        // crowd[place]
        for place, rank in zip(places, described, strict=True)
    ]
