"""Where a step of the device begins and ends."""

from pathlib import Path

from fapool.analysis.activities.kernels import sort_out
from fapool.analysis.activities.steps import device_steps, host_steps
from fapool.traces import Trace, read
from tests.traces import forms
from tests.traces.forms import event, kernel, launch, step


def trace_of(folder: Path, events: list[dict]) -> Trace:
    return read(forms.write(folder / "a.json", forms.compact(events)))


def windows(trace: Trace) -> list[tuple[int, int, int]]:
    found = device_steps(host_steps(trace), sort_out(trace))
    columns = found.number, found.start_ns - trace.base_ns, found.end_ns - trace.base_ns
    return list(zip(*(column.tolist() for column in columns), strict=True))


def test_a_step_begins_with_its_first_kernel_however_far_ahead_the_host_is(tmp_path):
    events = [step(4, 0, 100), step(5, 110, 200), launch(1, 10, 12), launch(2, 120, 122)]
    events += [kernel(500, 700, correlation=1), kernel(800, 950, correlation=2)]
    assert windows(trace_of(tmp_path, events)) == [(4, 500, 800), (5, 800, 950)]


def test_what_was_launched_between_two_steps_belongs_to_the_former(tmp_path):
    events = [step(4, 0, 100), step(5, 110, 200), launch(1, 105, 107), launch(2, 120, 122)]
    events += [kernel(500, 700, correlation=1), kernel(800, 950, correlation=2)]
    assert windows(trace_of(tmp_path, events)) == [(4, 500, 800), (5, 800, 950)]


def test_a_step_that_launched_nothing_begins_with_its_host(tmp_path):
    events = [step(4, 0, 100), step(5, 110, 200), step(6, 210, 300), launch(1, 10, 12)]
    events += [kernel(50, 90, correlation=1)]
    assert windows(trace_of(tmp_path, events)) == [(4, 50, 110), (5, 110, 210), (6, 210, 300)]
    late = [*events[:-1], kernel(150, 190, correlation=1)]
    assert windows(trace_of(tmp_path, late)) == [(4, 150, 150), (5, 150, 210), (6, 210, 300)]


def test_what_is_launched_after_the_last_step_does_not_lengthen_it(tmp_path):
    events = [step(4, 0, 100), launch(1, 10, 12), launch(2, 150, 151)]
    events += [kernel(20, 90, correlation=1), kernel(160, 990, correlation=2)]
    assert windows(trace_of(tmp_path, events)) == [(4, 20, 90)]


def test_without_steps_all_activity_is_one(tmp_path):
    events = [kernel(30, 90), kernel(20, 25), event("Memset", "gpu_memset", 95, 99)]
    assert windows(trace_of(tmp_path, events)) == [(-1, 20, 99)]


def test_steps_of_the_thread_that_has_most_of_them_count(tmp_path):
    other = step(4, 40, 60) | {"tid": 99}
    twin = step(4, 5, 60) | {"cat": "gpu_user_annotation", "tid": 20}
    host = host_steps(trace_of(tmp_path, [step(4, 0, 100), step(5, 90, 200), other, twin]))
    assert host.number.tolist() == [4, 5]
    assert (host.start_ns - forms.BASE_NS).tolist() == [0, 100]
