"""What was measured, in words that a reader of the report can check."""

import pytest

from fapool.analysis.measured import machine, measured, on_gpus
from fapool.analysis.study import study
from fapool.spec import FAPool, RangeWorkload, Static, TraceWorkload
from fapool.workload import write_synthetic
from tests.synthetic import small_spec, write_run

H200 = {"name": "NVIDIA H200"}
CPU = {"name": "AMD EPYC", "cores": 2}


def cuda(host: str, index: int) -> dict:
    return {"host": host, "device": f"cuda:{index}", "gpus": [H200] * 2, "cpu": CPU}


def cpu(host: str = "a") -> dict:
    return {"host": host, "device": "cpu", "gpus": [], "cpu": CPU}


@pytest.mark.parametrize(
    ("ranks", "words"),
    [
        ([cuda("a", 0), cuda("a", 1)], "2 GPUs: NVIDIA H200"),
        ([cuda("a", 0), cuda("b", 0)], "2 GPUs: NVIDIA H200 on 2 hosts"),
        ([cuda("a", 0), cuda("a", 0)], "2 ranks on 1 GPU: NVIDIA H200"),
        ([cpu(), cpu()], "2 CPU ranks on 2 cores: AMD EPYC"),
        ([cpu("a"), cpu("b")], "2 CPU ranks on 4 cores: AMD EPYC on 2 hosts"),
        ([{"device": "cuda:7"}] * 2, "2 ranks on 1 GPU: name not recorded"),
        ([], "2 ranks, device not recorded"),
    ],
)
def test_the_machine_is_what_its_ranks_recorded(ranks, words):
    assert machine(small_spec(plan=Static(tp=2)), ranks) == words


def test_a_traces_lengths_and_the_threshold_are_told_at_their_scale(tmp_path):
    trace = write_synthetic(tmp_path / "lengths.csv", rows=40)
    work = TraceWorkload(path=trace, sample=8, batch=2, length_scale=1 / 16, max_output=4)
    plan = FAPool(base=1, pool=1, threshold=4096)
    found = study(write_run(tmp_path, small_spec(plan=plan, workload=work)))
    words = measured(found)
    lengths = found.tables.requests["context"]
    assert words["workload"].startswith("8 requests of lengths.csv × 1/16, 2 at once; prompts of ")
    assert f"prompts of {lengths.min()} / {lengths.median():.0f} / " in words["workload"]
    assert words["threshold"] == "leased past 256 tokens (4,096 × 1/16)"


def test_a_range_of_lengths_is_told_with_what_was_drawn_from_it(tmp_path):
    work = RangeWorkload(
        shortest=512, longest=2047, sample=6, batch=2, output=3, length_scale=1 / 16
    )
    words = measured(study(write_run(tmp_path, small_spec(workload=work, plan=Static()))))[
        "workload"
    ]
    assert words.startswith("6 requests of 512 to 2,047 tokens × 1/16, 2 at once; prompts of ")


def test_what_was_not_recorded_is_not_denied_to_be_a_gpu(tmp_path):
    run = write_run(tmp_path)
    assert on_gpus(study(run))
    (run.path / "environment.json").write_text('{"ranks": [{"device": "cpu"}]}')
    assert not on_gpus(study(run))
    assert not on_gpus(study(write_run(tmp_path, small_spec(device="cpu"))))
