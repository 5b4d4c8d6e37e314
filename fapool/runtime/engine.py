"""One rank's way through a workload: step after step, timed, counted, stoppable."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from fapool import schedule
from fapool.instrument.recorder import Recorder
from fapool.instrument.totals import StepTotals
from fapool.phases import Phase
from fapool.runtime.control import Control
from fapool.runtime.plans.base import Plan
from fapool.runtime.seat import Seat
from fapool.schedule import Step
from fapool.spec import RunSpec
from fapool.workload import Request


@dataclass
class Timing:
    """One request's moments, Unix ns; 0 not yet."""

    admitted_ns: int
    first_ns: int = 0
    last_ns: int = 0
    leased_at: int = -1


@dataclass
class Played:
    """What came out of a workload; tokens and timings on the last stage only."""

    stopped: bool = False
    tokens: dict[int, list[int]] = field(default_factory=dict)
    timings: dict[int, Timing] = field(default_factory=dict)
    finished: list[int] = field(default_factory=list)


@contextmanager
def uncollected() -> Iterator[None]:
    """No garbage collection meanwhile: a full one takes as long as ten decode steps on a CPU."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


OnStep = Callable[[Step, StepTotals], None]


class Engine:
    """Plays workloads on one seat. Bracketing hooks: `before(step)`, `after(step, totals)`."""

    def __init__(self, seat: Seat, recorder: Recorder, control: Control) -> None:
        self._seat, self._recorder, self._control = seat, recorder, control

    def play(
        self,
        plan: Plan,
        spec: RunSpec,
        requests: Sequence[Request],
        *,
        repeat: int,
        before: Callable[[Step], None] = lambda step: None,
        after: OnStep = lambda step, totals: None,
        last_step: int | None = None,
    ) -> Played:
        """Run every step (up to `last_step`) of the workload once; `repeat` < 0 is not kept.

        On return no message is under way: a profiler that stops while gloo still moves one is
        written to after its end, and the process dies later, anywhere.
        """
        played = Played()
        steps = schedule.steps(requests, batch=spec.workload.batch, chunk=spec.prefill_chunk)
        with uncollected():
            self._control.barrier()
            self._recorder.begin(repeat)
            for step in steps:
                if last_step is not None and step.index > last_step:
                    break
                self._admit(step, played)
                if not self._control.tick(self._recorder.span, self._seat.place.role):
                    played.stopped = True
                    break
                before(step)
                totals = self._step(plan, step, played)
                with self._recorder.span(Phase.OBSERVE):
                    after(step, totals)
            plan.settle()
            self._control.settle()
        self._share_admissions(requests, played)
        return played

    def _share_admissions(self, requests: Sequence[Request], played: Played) -> None:
        """Admission is when the first stage takes a request up, on rank 0, whoever ends it."""
        known = played.timings
        mine = [known[r.id].admitted_ns if r.id in known else 0 for r in requests]
        for request, admitted in zip(requests, self._control.share(mine, source=0), strict=True):
            if request.id in known:
                known[request.id].admitted_ns = admitted

    def _step(self, plan: Plan, step: Step, played: Played) -> StepTotals:
        chosen = plan.run(step)
        leased, kv_tokens = plan.leased, plan.cache.num_tokens
        _mark_leases(plan, played)
        plan.end(step)
        with self._recorder.span(Phase.DEVICE_SYNC):
            for requests, tokens in chosen:
                for request, token in zip(requests, tokens.tolist(), strict=True):
                    played.tokens.setdefault(request, []).append(token)
            if self._seat.device.type == "cuda":
                torch.cuda.current_stream(self._seat.device).synchronize()
        totals = self._recorder.end_step(
            step=step.index,
            kind=step.kind,
            requests=len(step.segments),
            tokens=step.tokens,
            leased=leased,
            kv_tokens=kv_tokens,
        )
        self._note_tokens(step, played)
        return totals

    def _now(self) -> int:
        return self._recorder.clock() + self._recorder.unix_offset_ns

    def _admit(self, step: Step, played: Played) -> None:
        if step.admitted:
            now = self._now()
            for request in step.admitted:
                played.timings[request.id] = Timing(now)

    def _note_tokens(self, step: Step, played: Played) -> None:
        """A prompt's first token counts from the end of its wave, with its wave's others."""
        now = self._now()
        if step.kind == "decode":
            for segment in step.segments:
                played.timings[segment.request].last_ns = now
        for request in step.first_tokens:
            played.timings[request].first_ns = played.timings[request].last_ns = now
        played.finished += step.finished


def _mark_leases(plan: Plan, played: Played) -> None:
    for request, lease in plan.leases.items():
        timing = played.timings[request]
        if timing.leased_at < 0:
            timing.leased_at = lease.tokens


def head_of(spec: RunSpec) -> int:
    """The one rank that speaks for the tokens: the lowest of the last stage."""
    return spec.plan.world - spec.plan.tp if spec.plan.kind == "static" else 0
