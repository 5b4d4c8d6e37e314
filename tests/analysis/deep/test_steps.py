"""Where steps of a trace begin and end: where the device gets to their borders."""

import pytest

from fapool.analysis.deep.attribution import attribute
from fapool.analysis.deep.steps import traced_steps
from tests.analysis.made_traces import BASE_NS, HOST, Made


def borders(made: Made, folder) -> list[tuple[int, int]]:
    trace = made.read(folder)
    rows, _ = traced_steps(trace, attribute(trace, {}), None)
    starts, ends = rows["start_ns"] - BASE_NS, rows["end_ns"] - BASE_NS
    return list(zip(starts, ends, strict=True))


def two_steps(done: int = 300, **about) -> Made:
    """The first one's range ends at 500; its kernel was launched at 100 and ends at `done`."""
    made = Made(**about)
    made.step(0, 0, 500)
    made.step(1, 500, 900)
    made.span("ffn", 50, 150)
    made.launch(100, 1)
    made.kernel("gemm", 200, done, 1)
    return made


def test_a_step_ends_on_an_idle_device_when_the_host_has_recorded_that_not_when_its_range_ends(
    tmp_path,
):
    made = two_steps()
    made.add("cuda_runtime", "cudaEventRecordWithFlags", 400, 410)
    assert borders(made, tmp_path) == [(0, 410), (410, 900)]


def test_a_busy_device_gets_to_a_steps_end_when_it_is_done(tmp_path):
    made = two_steps(done=600)
    made.add("cuda_runtime", "cudaEventRecord", 400, 410)
    assert borders(made, tmp_path) == [(0, 600), (600, 900)]


@pytest.mark.parametrize(
    ("name", "at", "tid"),
    [
        ("cudaEventRecord", 90, HOST),  # before the last launch: of something else
        ("cudaEventRecord", 400, HOST + 1),  # another thread's
        ("cudaEventQuery", 400, HOST),
    ],
)
def test_other_calls_move_no_border(tmp_path, name, at, tid):
    made = two_steps()
    made.add("cuda_runtime", name, at, at + 5, tid)
    assert borders(made, tmp_path) == [(0, 500), (500, 900)]


def test_a_call_that_outlasts_the_range_does_not_lengthen_the_step(tmp_path):
    made = two_steps()
    made.add("cuda_runtime", "cudaEventRecord", 490, 520)
    assert borders(made, tmp_path) == [(0, 500), (500, 900)]


def test_steps_of_a_cpu_are_their_ranges(tmp_path):
    made = Made(device="cpu")
    made.step(0, 0, 500)
    made.step(1, 500, 900)
    made.add("cuda_runtime", "cudaEventRecord", 400, 410)
    assert borders(made, tmp_path) == [(0, 500), (500, 900)]


def test_a_foreign_traces_steps_are_its_ranges(tmp_path):
    made = two_steps()
    made.about = {}
    made.add("cuda_runtime", "cudaEventRecord", 400, 410)
    assert borders(made, tmp_path) == [(0, 500), (500, 900)]
