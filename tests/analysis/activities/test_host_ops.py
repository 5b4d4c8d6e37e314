"""Ranks without a device: operators, and the work of their collectives."""

import numpy as np

from fapool.analysis.activities import host_ops
from fapool.analysis.activities.steps import host_steps
from fapool.traces import read
from tests.traces import forms
from tests.traces.forms import event, step

OPS = [
    event("aten::mm", "cpu_op", 10, 30),
    event("aten::outer", "cpu_op", 50, 90),
    event("aten::inner", "cpu_op", 60, 70),
    event("c10d::allreduce_", "cpu_op", 75, 85),
]
WORK = event("gloo:all_reduce", "user_annotation", 80, 120) | {"tid": 9}


def sets(tmp_path, events) -> list[list[list[int]]]:
    trace = read(forms.write(tmp_path / "a.json", forms.compact(events)), ops=True)
    return [(one - forms.BASE_NS).tolist() for one in host_ops.sets(trace)]


def test_the_work_of_a_backend_is_communication_and_the_call_is_not_computing(tmp_path):
    compute, communication, waits, copies = sets(tmp_path, [*OPS, WORK])
    assert compute == [[10, 30], [50, 75], [85, 90]]
    assert communication == [[80, 120]]
    assert waits == copies == []


def test_work_that_outlasts_its_call_on_the_callers_thread_hides_no_operator(tmp_path):
    outlasting = event("gloo:recv", "user_annotation", 84, 200) | {"tid": 7}
    after = event("aten::mm", "cpu_op", 120, 150)
    compute, communication, *_ = sets(tmp_path, [*OPS, outlasting, after])
    assert compute == [[10, 30], [50, 75], [85, 90], [120, 150]]
    assert communication == [[84, 200]]


def test_work_that_a_thread_does_itself_is_no_computing(tmp_path):
    copied = event("aten::copy_", "cpu_op", 90, 95) | {"tid": 9}
    compute, *_ = sets(tmp_path, [*OPS, WORK, WORK | {"cat": "cpu_op"}, copied])
    assert compute == [[10, 30], [50, 75], [85, 90]]


def test_without_the_work_the_call_is_what_there_is(tmp_path):
    _, communication, _, _ = sets(tmp_path, OPS)
    assert communication == [[75, 85]]


def test_without_steps_all_operators_are_one(tmp_path):
    trace = read(forms.write(tmp_path / "a.json", forms.compact(OPS)), ops=True)
    whole = host_ops.windows(trace, host_steps(trace))
    assert np.r_[whole.number, whole.start_ns - trace.base_ns].tolist() == [-1, 10]
    stepped = read(
        forms.write(tmp_path / "a.json", forms.compact([*OPS, step(2, 0, 99)])), ops=True
    )
    assert host_ops.windows(stepped, host_steps(stepped)).number.tolist() == [2]
