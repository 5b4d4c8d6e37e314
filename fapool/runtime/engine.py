"""One rank's way through a workload: step after step, timed, counted, stoppable."""

from __future__ import annotations

import gc
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import takewhile

import torch
from torch import Tensor

from fapool import schedule
from fapool.instrument.recorder import OpenStep, Recorder
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


@dataclass(frozen=True, kw_only=True)
class Held:
    """What a plan held as the host closed a step."""

    kv_bytes: int  # of the tokens whose keys are here
    leased: int  # see `Plan.leased`


OnStep = Callable[[Step, StepTotals, Held], None]
OnClose = Callable[[Step, Plan], None]

AHEAD = 2
"""Steps that the host may be ahead of a GPU: what it does for one step hides behind another."""

STOPS = 7
"""Where GPUs wait for each other in decode steps, one step in so many opens with a word of rank 0:
hosts that wait for it in every step sleep, and wake too slowly for steps below a millisecond. It
has no divisor in common with how many steps there are to a sampled one, so that sampled steps wait
for the word as often as others do.
"""


@dataclass(frozen=True)
class Underway:
    """A step that the host is done with."""

    step: Step
    closed: OpenStep
    held: Held
    chosen: list[tuple[list[int], Tensor]]  # requests, their tokens on the host when it is read
    leased_at: dict[int, int]  # request -> tokens that it had when its lease was granted


class Engine:
    """Plays workloads on one seat. Bracketing hooks: `before(step)`, `after(step, totals, held)`.

    `starting()` comes last before the ranks meet and their clocks are asked, and steps begin.
    `closing(step, plan)` comes when the host is done with a step, before the plan lets go of the
    requests that it finished; `after` when the device is: on a GPU up to `AHEAD` steps later.
    """

    def __init__(self, seat: Seat, recorder: Recorder, control: Control) -> None:
        self._seat, self._recorder, self._control = seat, recorder, control
        self._on_gpu = seat.device.type == "cuda"

    def play(
        self,
        plan: Plan,
        spec: RunSpec,
        requests: Sequence[Request],
        *,
        repeat: int,
        starting: Callable[[], None] = lambda: None,
        before: Callable[[Step], None] = lambda step: None,
        closing: OnClose = lambda step, plan: None,
        after: OnStep = lambda step, totals, held: None,
        last_step: float = math.inf,
        ahead: int = AHEAD,
    ) -> Played:
        """Run every step (up to `last_step`) of the workload once; `repeat` < 0 is not kept.

        On return no message is under way: gloo would write to a profiler that has ended.
        """
        played, underway = Played(), deque()
        steps = schedule.steps(requests, batch=spec.workload.batch, chunk=spec.prefill_chunk)
        # A sampled step is read before the next one's replay records the same events anew.
        ahead = min(ahead, self._recorder.sample_every - 1) if self._on_gpu else 0
        with uncollected():
            starting()
            self._control.barrier()
            self._recorder.begin(repeat)
            for step in takewhile(lambda step: step.index <= last_step, steps):
                if not self._goes_on(step, plan):
                    played.stopped = True
                    break
                before(step)
                underway.append(self._start(plan, step, closing))
                while len(underway) > ahead:
                    self._finish(underway.popleft(), played, after)
            for left in underway:
                self._finish(left, played, after)
            plan.settle()
            self._settle(repeat, played)
        self._share_admissions(requests, played)
        return played

    def _goes_on(self, step: Step, plan: Plan) -> bool:
        """The same on all ranks. One that waits for nobody waits for the word in every step."""
        bound = self._on_gpu and step.kind == "decode" and plan.bound
        if bound and step.index % STOPS:
            return True
        return self._control.tick(self._recorder.span, self._seat.place.role)

    def _settle(self, repeat: int, played: Played) -> None:
        """Give all moments of requests as this rank knows them now that the repeat is over."""
        self._control.settle()
        self._recorder.end()
        settled = self._recorder.settled(repeat)
        for timing in played.timings.values():
            for name in ("admitted_ns", "first_ns", "last_ns"):
                if known := getattr(timing, name):
                    setattr(timing, name, settled(known))

    def _share_admissions(self, requests: Sequence[Request], played: Played) -> None:
        """Admission is when the first stage takes a request up, on rank 0, whoever ends it."""
        known = played.timings
        mine = [known[r.id].admitted_ns if r.id in known else 0 for r in requests]
        for request, admitted in zip(requests, self._control.share(mine, source=0), strict=True):
            if request.id in known:
                known[request.id].admitted_ns = admitted

    def _start(self, plan: Plan, step: Step, closing: OnClose) -> Underway:
        """Do the host's part of a step, and leave the device to it."""
        chosen = [(requests, self._fetch(tokens)) for requests, tokens in plan.run(step)]
        held = Held(kv_bytes=plan.cache.used_bytes, leased=plan.leased)
        kv_tokens = plan.cache.num_tokens
        leased_at = {request: lease.tokens for request, lease in plan.leases.items()}
        closing(step, plan)
        plan.end(step)
        closed = self._recorder.close_step(
            step=step.index,
            kind=step.kind,
            requests=len(step.segments),
            tokens=step.tokens,
            leased=held.leased,
            kv_tokens=kv_tokens,
        )
        return Underway(step, closed, held, chosen, leased_at)

    def _fetch(self, tokens: Tensor) -> Tensor:
        """A host copy, whole when the device has reached the end of the step."""
        if not self._on_gpu:
            return tokens
        host = torch.empty(tokens.shape, dtype=tokens.dtype, pin_memory=True)
        return host.copy_(tokens, non_blocking=True)

    def _finish(self, done: Underway, played: Played, after: OnStep) -> None:
        """Wait for the device's part, and note what came out of the step."""
        step, start_ns = done.step, self._recorder.read_until_ns
        with self._recorder.span(Phase.DEVICE_SYNC):
            totals = self._recorder.read_step(done.closed)
        for requests, tokens in done.chosen:
            for request, token in zip(requests, tokens.tolist(), strict=True):
                played.tokens.setdefault(request, []).append(token)
        for request in step.admitted:
            played.timings[request.id] = Timing(start_ns)
        for request, tokens in done.leased_at.items():
            timing = played.timings[request]
            if timing.leased_at < 0:
                timing.leased_at = tokens
        self._note_tokens(step, played)
        with self._recorder.span(Phase.OBSERVE):
            after(step, totals, done.held)

    def _note_tokens(self, step: Step, played: Played) -> None:
        """A prompt's first token counts from the end of its wave, with its wave's others."""
        now = self._recorder.read_until_ns
        if step.kind == "decode":
            for segment in step.segments:
                played.timings[segment.request].last_ns = now
        for request in step.first_tokens:
            played.timings[request].first_ns = played.timings[request].last_ns = now
        played.finished += step.finished


def head_of(spec: RunSpec) -> int:
    """The one rank that speaks for the tokens: the lowest of the last stage."""
    return spec.plan.world - spec.plan.tp if spec.plan.kind == "static" else 0
