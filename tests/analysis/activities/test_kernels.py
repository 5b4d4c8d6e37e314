"""What a kernel was for: by what the trace says, and only then by its name."""

import pytest

from fapool.analysis.activities.kernels import COMMUNICATION, COMPUTE, COPY, sort_out
from fapool.traces import read
from tests.traces import forms
from tests.traces.forms import event, kernel, launch, said


@pytest.mark.parametrize(
    ("name", "args", "use", "by_name"),
    [
        ("gemm", {}, COMPUTE, False),
        ("fast_all_reduce", said("allreduce", [0, 1]), COMMUNICATION, False),
        ("fast_all_reduce", {"External id": 9}, COMMUNICATION, False),
        ("gemm", {"External id": 8}, COMPUTE, False),
        ("ncclDevKernel_AllReduce_Sum_f32_RING_LL(...)", {}, COMMUNICATION, True),
        ("ncclDevKernel_SendRecv(...)", said("send", [0, 1]), COMMUNICATION, False),
        ("void ncclKernel<1>(int)", {}, COMMUNICATION, True),
        ("my_ncclish_gemm", {}, COMPUTE, False),
    ],
)
def test_a_kernel_is_what_the_trace_says_before_what_its_name_says(
    tmp_path, name, args, use, by_name
):
    record = event("record_param_comms", "cpu_op", 0, 10, **{"External id": 9})
    other = event("aten::mm", "cpu_op", 0, 10, **{"External id": 8})
    events = [record, other, kernel(20, 30, name, **args)]
    found = sort_out(read(forms.write(tmp_path / "a.json", forms.compact(events))))
    assert found.use.tolist() == [use]
    assert found.by_name.tolist() == [by_name]


@pytest.mark.parametrize(
    ("name", "category", "use"),
    [
        ("Memcpy HtoD (Pageable -> Device)", "gpu_memcpy", COPY),
        ("Memcpy PtoP (Device -> Device)", "gpu_memcpy", COMMUNICATION),
        ("Memset (Device)", "gpu_memset", COPY),
    ],
)
def test_copies_between_devices_are_communication_and_others_are_copies(
    tmp_path, name, category, use
):
    path = forms.write(tmp_path / "a.json", forms.compact([event(name, category, 0, 5)]))
    assert sort_out(read(path)).use.tolist() == [use]


def test_a_launch_is_found_by_its_correlation_and_missed_without_harm(tmp_path):
    events = [launch(5, 10, 12), launch(4, 20, 22), kernel(100, 110, correlation=4)]
    events += [kernel(120, 130, correlation=5), kernel(140, 150, correlation=6), kernel(160, 170)]
    path = forms.write(tmp_path / "a.json", forms.compact(events))
    assert (sort_out(read(path)).launched_ns - forms.BASE_NS).tolist() == [20, 10, 140, 160]
    path = forms.write(tmp_path / "a.json", forms.compact(events[2:]))
    assert (sort_out(read(path)).launched_ns - forms.BASE_NS).tolist() == [100, 120, 140, 160]
