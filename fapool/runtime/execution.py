"""One spec on one rank, from its weights to its tables: check, measure, trace, write."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
import torch.distributed as dist

from fapool import schedule
from fapool.instrument.alignment import Line
from fapool.instrument.clock import HostClock
from fapool.instrument.memory import peak_transient_bytes
from fapool.instrument.recorder import Recorder
from fapool.instrument.totals import StepTotals
from fapool.phases import WARM_UP, Owner
from fapool.runtime import check, plans
from fapool.runtime.about import about
from fapool.runtime.control import Control
from fapool.runtime.engine import Engine, Held, OnStep, Played, head_of
from fapool.runtime.live import Live
from fapool.runtime.plans.base import Plan
from fapool.runtime.readings import Readings
from fapool.runtime.record import request_columns
from fapool.runtime.seat import Groups, take
from fapool.runtime.traced import traced, window_of
from fapool.runtime.writing import join, write_own
from fapool.sample import Sample
from fapool.schedule import Step
from fapool.spec import RunSpec
from fapool.store import RunFolder
from fapool.topology import Place
from fapool.workload import requests_of

LOG = logging.getLogger("fapool")
WARM_DECODE_STEPS = 4


class Execution:
    """A rank's part in one run. `check`, then `measure`, then `write`, each once, on all ranks."""

    _profiled: Line | None = None  # what the trace's clock is against ours

    def __init__(
        self,
        spec: RunSpec,
        place: Place,
        device: torch.device,
        groups: Groups,
        control: dist.ProcessGroup,
        folder: RunFolder,
        publish: Callable[[Sample], None],
    ) -> None:
        self._spec, self._place, self._device, self._folder = spec, place, device, folder
        self._requests = requests_of(spec)
        self._clock = HostClock(control)
        self._recorder = Recorder(
            rank=place.rank,
            role=place.role,
            device=device,
            enabled=spec.capture.spans,
            unix_offset_ns=self._clock.unix_offset_ns,
            sample_every=spec.capture.sample_every,
        )
        self._readings = Readings(place, device, self._recorder, folder, spec.capture)
        self._meter, self._snapshot = self._readings.memory, self._readings.snapshot
        self._live = self._new_live(publish)
        self._live.stage("loading")
        with self._snapshot.recording():
            self._seat = take(spec, place, device=device, groups=groups, recorder=self._recorder)
        self._meter.set(Owner.WEIGHTS, self._seat.weights.num_bytes)
        self._control = Control(
            control, rank=place.rank, world=place.world, stop_file=folder.stop_file
        )
        self._engine = Engine(self._seat, self._recorder, self._control)
        self._timings: list[tuple[int, Played]] = []
        LOG.info("%s of %s on %s", place.role, spec.plan, device)

    def _new_live(self, publish: Callable[[Sample], None]) -> Live:
        steps = sum(1 for _ in self._steps()) * self._spec.repeats
        return Live(
            publish,
            self._place,
            steps=steps,
            hz=self._spec.capture.live_hz,
            capacity_bytes=self._meter.capacity_bytes,
            how=self._recorder.method,
        )

    def check(self) -> bool:
        """Hold the plan against the one-device reference; the verdict, the same on every rank."""
        self._live.stage("checking")
        check.prove(self._seat.backends.prefill, self._spec.model, self._device)
        spec, requests = check.probe(self._spec)
        plan = plans.make(self._seat, spec, requests, keep_logits=True)
        played: list[Played] = []
        try:
            self._transient(
                lambda: played.append(self._engine.play(plan, spec, requests, repeat=WARM_UP))
            )
        finally:
            plan.close()
        head, passed = head_of(self._spec), None
        if played[0].stopped:  # by the user, before anything was measured
            found, passed = {"passed": False, "reason": "stopped before it was done"}, True
            if self._place.rank == head:
                self._folder.write_json("correctness.json", found)
        elif self._place.rank == head:
            found = check.compare(
                spec, requests, played[0].tokens, plan.ending.logits, self._device
            )
            self._folder.write_json("correctness.json", found)
            LOG.info("check: %s", found)
            passed = found["passed"]
        return self._control.agree(passed, source=head)

    def measure(self) -> str:
        """Warm up, repeat the workload, trace a few steps; "finished" or "stopped"."""
        stopped = self._measure()
        if not stopped and self._spec.capture.profile_steps:
            self._live.stage("tracing")
            stopped = self._trace()
        if not stopped and self._snapshot.possible:
            stopped = self._take_snapshot()
        self._live.stage("writing")
        return "stopped" if stopped else "finished"

    def _measure(self) -> bool:
        """Warm up and repeat the workload; whether that was stopped."""
        with self._plan(self._spec) as plan:
            for number in range(self._spec.warmup):
                self._live.stage("warming up")
                if self._warm_up(plan, last=number == self._spec.warmup - 1).stopped:
                    return True
            for held in (self._seat, self._meter):  # of the check, whose prompts are others,
                held.forget_peak()  # and of its reference in fp64
            for repeat in range(self._spec.repeats):
                self._live.stage("running")
                if self._repeat(plan, repeat).stopped:
                    return True
        return False

    def write(self) -> None:
        """Write this rank's tables; rank 0 joins everybody's and adds what concerns the run."""
        settle = self._clock.settle()
        events, steps = self._recorder.columns(settle)
        tables = {"events": events, "steps": steps} | self._readings.columns(settle)
        if self._spec.capture.profile_steps:
            events, steps = self._recorder.columns(settle, traced=True)
            tables |= {"traced_events": events, "traced_steps": steps}
        if self._place.rank == head_of(self._spec):
            tables["requests"] = request_columns(self._timings, self._requests, settle)
        said = {"profiled": self._profiled, "snapshot": self._snapshot.said}
        own = about(self._seat, self._requests, self._clock, **said)
        write_own(self._folder, self._place.rank, tables, own)
        self._control.barrier()
        if self._place.rank == 0:
            join(self._folder, self._place.world)
        self._control.barrier()
        self._live.stage("finished")

    @contextmanager
    def _plan(self, spec: RunSpec) -> Iterator[Plan]:
        """A plan for the spec's workload; its cache and graphs are gone before the next is made."""
        plan = plans.make(self._seat, spec, self._requests)
        self._meter.set(Owner.KV, plan.cache.num_bytes)
        try:
            yield plan
        finally:
            plan.close()

    def _repeat(self, plan: Plan, repeat: int) -> Played:
        """One measured pass."""
        hooks = self._readings.hooks(repeat) | {"after": self._measured(plan, repeat)}
        played = self._engine.play(plan, self._spec, self._requests, repeat=repeat, **hooks)
        self._readings.ended()
        plan.reset()
        self._clock.ask()
        self._timings.append((repeat, played))
        return played

    def _warm_up(self, plan: Plan, *, last: bool) -> Played:
        """The first wave's prefill and a few decode steps: every kernel and message once.

        The last pass is whole where steps come from graphs: each shape of them is captured when it
        is first met, and that shall not be in a measured step.
        """
        captures = last and self._spec.graphs and self._seat.capturable
        until = math.inf if captures else self._first_decode() + WARM_DECODE_STEPS - 1
        played = self._engine.play(
            plan, self._spec, self._requests, repeat=WARM_UP, last_step=until
        )
        plan.reset()
        return played

    def _measured(self, plan: Plan, repeat: int) -> OnStep:
        def after(step: Step, totals: StepTotals, held: Held) -> None:
            if self._readings.read(self._seat, plan, repeat, step, held):
                self._live.memory = self._meter.latest()
            self._live.step(step, totals, leases=held.leased)

        return after

    def _trace(self) -> bool:
        """See `traced`; on a plan of its own, whose graphs are captured ahead."""
        first = self._first_decode()
        last = first + self._spec.capture.profile_steps - 1
        play = partial(self._engine.play, spec=self._spec, requests=self._requests, last_step=last)
        with self._plan(self._spec) as plan:
            window = window_of(
                self._recorder, self._folder, self._place, self._spec, max(0, first - 1), last
            )
            played = traced(self._recorder, window, plan, play)
        self._profiled = window.line
        return played.stopped

    def _take_snapshot(self) -> bool:
        """One more warm-up, graphs included, with the history of all that it allocates."""
        with self._snapshot.recording(), self._plan(self._spec) as plan:
            played = self._warm_up(plan, last=True)
            self._snapshot.write()
        return played.stopped

    def _transient(self, act: Callable[[], None]) -> None:
        """Do it; on CPU also measure the highest transient use of memory."""
        if self._device.type == "cuda":
            act()
        else:
            self._meter.set(Owner.ACTIVATIONS, peak_transient_bytes(act))

    def _steps(self):
        work = self._spec.workload
        return schedule.steps(self._requests, batch=work.batch, chunk=self._spec.prefill_chunk)

    def _first_decode(self) -> int:
        return next((step.index for step in self._steps() if step.kind == "decode"), 0)
