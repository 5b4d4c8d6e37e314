"""Known delays in the ranks of a run; `landing.py` says whether its breakdown finds them.

Four plants, each in one rank and one place, without a hook in what is measured: the rank's own
process swaps a function for one that first waits, once a step of every other repeat.

    compute     rank 0   in the FFN                        -> rank 0: compute, ffn
    arrival     rank 1   before it joins a sum             -> rank 0: synchronization, all_reduce
    transfer    rank 0   after a query is posted, before   -> rank 1: communication, wait_query
                         it leaves
    leases      rank 0   while a lease is granted          -> rank 0: management, lease

What was planted is what the wait's own clock says: by the host's, busy, or by CUDA events around a
kernel that spins.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from fapool.leases import LeaseBook
from fapool.phases import Category, Phase
from fapool.runtime import elementwise
from fapool.runtime.engine import Engine
from fapool.runtime.exchange.collective import Collective
from fapool.runtime.exchange.message_link import Mail
from fapool.spec import FAPool, Plan, RunSpec, Static, TraceWorkload

OUTPUT = 8
REQUESTS = 4
REPEATS = 4  # half of them are delayed
Notes = list[tuple[int, int, int]]
"""(repeat, step, ns) of every delay."""


@dataclass(frozen=True, kw_only=True)
class Plant:
    """Where a delay is put, and where its time must be found."""

    plan: Plan
    rank: int  # that is delayed
    owners: tuple[type, ...]  # of the function that waits first
    function: str
    on_host: bool  # the delay is the host's, also on a GPU
    found_on: int
    category: Category
    phase: Phase


_LENT = {"base": 1, "pool": 1, "overlap": "never"}
_OPS = tuple(
    kind
    for name in ("TorchOps", "TritonOps")
    if (kind := getattr(elementwise, name, None)) and "linear_gelu" in vars(kind)
)


def plants(threshold: int) -> dict[str, Plant]:
    """Plants by name; those with a pool lease past `threshold` tokens."""
    lent = FAPool(**_LENT, threshold=threshold)
    rows = {
        "compute": (lent, 0, _OPS, "linear_gelu", False, 0, Category.COMPUTE, Phase.FFN),
        "arrival": (Static(tp=2), 1, (Collective,), "sum", False, 0,
                    Category.SYNCHRONIZATION, Phase.ALL_REDUCE),
        "transfer": (lent, 0, (Mail,), "send", False, 1,
                     Category.COMMUNICATION, Phase.WAIT_QUERY),
        "leases": (lent, 0, (LeaseBook,), "grant", True, 0, Category.MANAGEMENT, Phase.LEASE),
    }  # fmt: skip
    names = Plant.__dataclass_fields__
    return {key: Plant(**dict(zip(names, row, strict=True))) for key, row in rows.items()}


def spec_for(plan: Plan, folder: Path, *, device: str) -> RunSpec:
    """Four requests, each of which grows past the threshold in a decode step of its own."""
    on_gpu = device == "cuda"
    block, threshold = (256, 256) if on_gpu else (16, 32)
    path = folder / f"planted-{threshold}.csv"
    rows = [f"{threshold - 1 - 2 * i},{OUTPUT}" for i in range(REQUESTS)]
    scratch = path.with_suffix(f".{os.getpid()}")  # every rank writes it, and may read another's
    scratch.write_text("\n".join(["ContextTokens,GeneratedTokens", *rows]) + "\n")
    scratch.replace(path)
    return RunSpec(
        name="planted",
        model="paper-4l" if on_gpu else "tiny",
        plan=plan,
        workload=TraceWorkload(path=path.absolute(), sample=REQUESTS, batch=REQUESTS),
        transport="messages",
        graphs=False,
        device=device,
        block=block,
        prefill_chunk=4 * block,
        repeats=REPEATS,
        capture={"sample_every": 1},
    )


def threshold_for(device: str) -> int:
    """Of the plans of `spec_for`, tokens."""
    return 256 if device == "cuda" else 32


class Busy:
    """Waits busily by the host's clock; notes how long it was."""

    def __init__(self) -> None:
        self._waits: Notes = []

    def __call__(self, at: tuple[int, int], delay_ns: int) -> None:
        start = now = time.perf_counter_ns()
        while now - start < delay_ns:
            now = time.perf_counter_ns()
        self._waits.append((*at, now - start))

    def notes(self) -> Notes:
        """Every wait."""
        return self._waits


class Spinning:
    """The same on the current CUDA stream: a kernel that spins, timed by events."""

    def __init__(self) -> None:
        self._waits: list[tuple[tuple[int, int], torch.cuda.Event, torch.cuda.Event]] = []
        for _ in range(2):  # the first one is loaded
            start, end = self._spin(50_000_000)
            end.synchronize()
        self._cycles = 50_000_000 / (start.elapsed_time(end) * 1e6)  # a nanosecond

    def __call__(self, at: tuple[int, int], delay_ns: int) -> None:
        self._waits.append((at, *self._spin(round(delay_ns * self._cycles))))

    def notes(self) -> Notes:
        """Every wait; itself waits for the device."""
        torch.cuda.synchronize()
        return [(*at, round(a.elapsed_time(b) * 1e6)) for at, a, b in self._waits]

    def _spin(self, cycles: int) -> tuple[torch.cuda.Event, torch.cuda.Event]:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        torch.cuda._sleep(cycles)
        end.record()
        return start, end


class Step:
    """Which step this rank is in, and whether it is to be delayed and has not been yet."""

    def __init__(self) -> None:
        self.repeat, self.step, self.due = -1, -1, False

    def playing(self, play: Callable) -> Callable:
        """`Engine.play` that notes its repeat."""

        def inner(*args: Any, **labels: Any) -> Any:
            self.repeat, self.due = labels["repeat"], False
            try:
                return play(*args, **labels)
            finally:
                self.due = False

        return inner

    def starting(self, start: Callable) -> Callable:
        """`Engine._start` that notes its step; delayed are decode steps of odd repeats."""

        def inner(engine: Engine, plan: Any, step: Any, *hooks: Any) -> Any:
            self.step = step.index
            self.due = self.repeat >= 0 and self.repeat % 2 == 1 and step.kind == "decode"
            return start(engine, plan, step, *hooks)

        return inner

    def delaying(self, wait: Callable, delay_ns: int) -> Callable[[Callable], Callable]:
        """Makes a function one that first waits, once a step."""

        def make(function: Callable) -> Callable:
            def inner(*args: Any, **labels: Any) -> Any:
                if self.due:
                    self.due = False
                    wait((self.repeat, self.step), delay_ns)
                return function(*args, **labels)

            return inner

        return make


@contextmanager
def planted(plant: Plant | None, rank: int, *, delay_ns: int, device: str) -> Iterator[Notes]:
    """Meanwhile this rank is delayed, if it is the plant's; gives the notes, whole at the end."""
    notes: Notes = []
    if plant is None or plant.rank != rank:
        yield notes
        return
    wait = Spinning() if device == "cuda" and not plant.on_host else Busy()
    step = Step()
    delaying = step.delaying(wait, delay_ns)
    swaps = [(Engine, "play", step.playing), (Engine, "_start", step.starting)]
    swaps += [(owner, plant.function, delaying) for owner in plant.owners]
    with ExitStack() as stack:
        for owner, name, make in swaps:
            stack.enter_context(mock.patch.object(owner, name, make(getattr(owner, name))))
        yield notes
    notes += wait.notes()
