"""What the engine does around its steps, in their order, however far the host is ahead."""

import gc
import math
from types import SimpleNamespace

import pytest
import torch

from fapool import schedule
from fapool.instrument.recorder import Recorder
from fapool.phases import Role
from fapool.runtime import traced
from fapool.runtime.engine import AHEAD, STOPS, Engine, uncollected
from fapool.spec import Capture, Static, Workload
from fapool.workload import Request
from tests.synthetic import small_spec

CPU = torch.device("cpu")
WORK = Workload(batch=2, context=9, output=5)
SPEC = small_spec(plan=Static(), workload=WORK, block=4, prefill_chunk=8)
REQUESTS = [Request(id=number, context=4 + number, output=2 + number) for number in range(5)]
STEPS = list(schedule.steps(REQUESTS, batch=2, chunk=8))


def test_garbage_waits_until_the_steps_are_over_even_if_they_fail():
    with pytest.raises(RuntimeError), uncollected():
        assert not gc.isenabled()
        raise RuntimeError
    assert gc.isenabled()


class FakePlan:
    """Chooses 100 x request + its how many-th token; leases request 3 once it decodes."""

    def __init__(self, log: list, bound: bool = True) -> None:
        self.log, self.leased, self.leases, self.bound = log, 0, {}, bound
        self.cache = SimpleNamespace(num_tokens=7, used_bytes=0)
        self.given: dict[int, int] = {}
        self.out = torch.zeros(8, dtype=torch.int64)  # as a graph's: written anew in every step

    def run(self, step):
        self.log.append(("run", step.index))
        self.leased, self.cache.used_bytes = step.index % 3, 10 * step.index
        if step.kind == "decode" and any(s.request == 3 for s in step.segments):
            self.leases.setdefault(3, SimpleNamespace(tokens=11))
        emitters = [segment.request for segment in step.segments if segment.emits]
        for row, request in enumerate(emitters):
            number = self.given[request] = self.given.get(request, 0) + 1
            self.out[row] = 100 * request + number
        return [(emitters, self.out[: len(emitters)])]

    def end(self, step):
        self.log.append(("end", step.index))
        for request in step.finished:
            self.leases.pop(request, None)

    def settle(self):
        self.log.append(("settle", -1))


class FakeControl:
    """Says stop when it is asked for the time after `stops`, if ever."""

    def __init__(self, stops: int = -1) -> None:
        self.stops, self.ticks = stops, 0

    def barrier(self) -> None: ...

    def settle(self) -> None: ...

    def tick(self, span, role) -> bool:
        self.ticks += 1
        return self.ticks - 1 != self.stops

    def share(self, values, source):
        return values


def play(
    monkeypatch,
    ahead: int,
    *,
    stops: int = -1,
    sample_every: int = 16,
    told: list | None = None,
    on_gpu: bool = True,
    bound: bool = True,
):
    """What was played, what happened in which order, and the rows of steps; `told` of the plan.

    `on_gpu`: a CPU's tensors in a GPU's order of things. `bound`: see `Plan.bound`.
    """

    def after(step, totals, held) -> None:
        log.append(("after", step.index))
        if told is not None:
            told.append(held)

    log: list[tuple[str, int]] = []
    recorder = Recorder(rank=0, role=Role.BASE, device=CPU, sample_every=sample_every)
    seat = SimpleNamespace(device=CPU, place=SimpleNamespace(role=Role.BASE))
    engine = Engine(seat, recorder, FakeControl(stops))
    monkeypatch.setattr(engine, "_on_gpu", on_gpu)
    monkeypatch.setattr(engine, "_fetch", torch.Tensor.clone)
    played = engine.play(
        FakePlan(log, bound),
        SPEC,
        REQUESTS,
        repeat=0,
        before=lambda step: log.append(("before", step.index)),
        after=after,
        ahead=ahead,
    )
    return played, log, recorder.columns()[1]


@pytest.mark.parametrize("ahead", [0, 1, AHEAD])
def test_a_step_ends_on_the_host_before_the_device_is_waited_for(monkeypatch, ahead):
    _, log, _ = play(monkeypatch, ahead)
    expected = []
    for step in STEPS:
        expected += [(name, step.index) for name in ("before", "run", "end")]
        if step.index >= ahead:
            expected.append(("after", step.index - ahead))
    expected += [("after", step.index) for step in STEPS[len(STEPS) - ahead :]]
    assert log == [*expected, ("settle", -1)]


@pytest.mark.parametrize("ahead", [0, 1, AHEAD])
def test_tokens_and_moments_are_those_of_their_steps_however_far_the_host_is_ahead(
    monkeypatch, ahead
):
    played, _, steps = play(monkeypatch, ahead)
    for request in REQUESTS:
        expected = [100 * request.id + number + 1 for number in range(request.output)]
        assert played.tokens[request.id] == expected
    ends = dict(zip(steps["step"], steps["end_ns"], strict=True))
    starts = dict(zip(steps["step"], steps["start_ns"], strict=True))
    for step in STEPS:
        for request in step.admitted:
            assert played.timings[request.id].admitted_ns == starts[step.index]
        for request in step.first_tokens:
            assert played.timings[request].first_ns == ends[step.index]
        for request in step.finished:
            assert played.timings[request].last_ns == ends[step.index]
    assert played.finished == [request for step in STEPS for request in step.finished]
    leased = {request: timing.leased_at for request, timing in played.timings.items()}
    assert leased == {0: -1, 1: -1, 2: -1, 3: 11, 4: -1}
    assert steps["kv_tokens"] == [7] * len(STEPS)


@pytest.mark.parametrize("ahead", [0, 1, AHEAD])
def test_what_was_held_is_told_as_it_was_in_the_step_however_far_the_host_is_ahead(
    monkeypatch, ahead
):
    told = []
    _, _, steps = play(monkeypatch, ahead, told=told)
    assert [held.leased for held in told] == steps["leased"] == [s.index % 3 for s in STEPS]
    assert [held.kv_bytes for held in told] == [10 * step.index for step in STEPS]


@pytest.mark.parametrize("ahead", [0, AHEAD])
@pytest.mark.parametrize("stops", range(7))
def test_a_gpu_stops_before_a_prefill_or_some_decode_steps_with_what_was_under_way_finished(
    monkeypatch, ahead, stops
):
    monkeypatch.setattr("fapool.runtime.engine.STOPS", 4)
    played, log, steps = play(monkeypatch, ahead, stops=stops)
    may = [0, 1, 3, 4, 5, 8, 12]  # prefills, and decode steps 4 and 12
    done = [step.index for step in STEPS if step.index < may[stops]]
    assert played.stopped
    assert [index for name, index in log if name == "after"] == done
    assert steps["step"] == done


@pytest.mark.parametrize("stops", range(5))
@pytest.mark.parametrize("where", [{"on_gpu": False}, {"bound": False}])
def test_cpus_and_gpus_that_wait_for_nobody_stop_before_any_step(monkeypatch, stops, where):
    played, _, steps = play(monkeypatch, 0, stops=stops, **where)
    assert played.stopped and steps["step"] == list(range(stops))


def test_sampled_steps_open_with_a_word_as_often_as_others_do():
    for every in (traced.SAMPLE_EVERY, Capture().sample_every):
        assert math.gcd(STOPS, every) == 1


def test_the_host_stays_behind_where_the_next_step_records_the_same_events(monkeypatch):
    _, log, _ = play(monkeypatch, AHEAD, sample_every=1)
    at = [log.index(("after", step.index)) for step in STEPS[:-1]]
    following = [log.index(("run", step.index)) for step in STEPS[1:]]
    assert all(after < run for after, run in zip(at, following, strict=True))


@pytest.mark.gpu(1)
def test_a_gpus_tokens_are_whole_when_their_step_is_finished():
    device = torch.device("cuda", torch.cuda.current_device())
    recorder = Recorder(rank=0, role=Role.BASE, device=device)
    seat = SimpleNamespace(device=device, place=SimpleNamespace(role=Role.BASE))
    plan = FakePlan([])
    plan.out, choose = plan.out.to(device), plan.run

    def slowly(step):
        torch.cuda._sleep(20_000_000)
        return choose(step)

    plan.run = slowly
    played = Engine(seat, recorder, FakeControl()).play(plan, SPEC, REQUESTS, repeat=0)
    for request in REQUESTS:
        expected = [100 * request.id + number + 1 for number in range(request.output)]
        assert played.tokens[request.id] == expected
