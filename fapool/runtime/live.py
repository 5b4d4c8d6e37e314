"""What a rank publishes while it runs: cumulative counters, a few times a second at most."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from fapool.instrument.totals import StepTotals
from fapool.phases import Category
from fapool.sample import Sample
from fapool.schedule import Step
from fapool.topology import Place

RECENT = 16
"""Decode steps that the live TPOT is the mean of."""


class Live:
    """Counts the measured part of a run; calls `publish` at most `hz` times a second.

    A new stage is published at once, so that nobody waits for a rank without knowing for what.
    """

    def __init__(
        self,
        publish: Callable[[Sample], None],
        place: Place,
        *,
        steps: int,
        hz: float,
        capacity_bytes: int,
        how: str,
        clock: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        self._publish, self._place, self._clock = publish, place, clock
        self._period_ns = round(1e9 / hz)
        self._steps, self._capacity, self._how = steps, capacity_bytes, how
        self._stage, self._sequence, self._due = "loading", 0, 0
        self._done = self._tokens = self._elapsed_ns = self._wall_ns = self._leases = 0
        self._category_ns = dict.fromkeys(Category, 0)
        self._recent: deque[int] = deque(maxlen=RECENT)
        self.memory: dict[str, int] = {}

    def stage(self, name: str) -> None:
        """Enter a stage (see `Sample.stage`) and say so."""
        self._stage = name
        self._say()

    def step(self, step: Step, totals: StepTotals, *, leases: int) -> None:
        """Count a measured step."""
        self._done += 1
        self._leases = leases
        self._elapsed_ns += totals.wall_ns
        if totals.known:
            self._wall_ns += totals.wall_ns
            for category, spent in totals.category_ns.items():
                self._category_ns[category] += spent
        self._tokens += sum(segment.emits for segment in step.segments)
        if step.kind == "decode":
            self._recent.append(totals.wall_ns)
        if self._clock() >= self._due:
            self._say()

    def _say(self) -> None:
        self._due = self._clock() + self._period_ns
        self._sequence += 1
        recent = self._recent
        self._publish(
            Sample(
                rank=self._place.rank,
                role=self._place.role.value,
                sequence=self._sequence,
                stage=self._stage,
                step=self._done,
                steps=self._steps,
                elapsed_ns=self._elapsed_ns,
                wall_ns=self._wall_ns,
                category_ns={c.value: spent for c, spent in self._category_ns.items()},
                tokens=self._tokens,
                tpot_ms=sum(recent) / len(recent) / 1e6 if recent else None,
                leases=self._leases,
                memory_bytes=self.memory,
                capacity_bytes=self._capacity,
                how=self._how,
            )
        )
