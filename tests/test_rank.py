"""One rank alone, in this very process: what it leaves behind when all is well, and when not."""

import weakref

import pytest
import torch
import torch.distributed as dist

from fapool import rank as rank_side
from fapool.analysis.breakdown import breakdown
from fapool.analysis.load import load
from fapool.errors import CheckFailed, SpecError
from fapool.runtime import execution, seat
from fapool.spec import FAPool, RunSpec, Static, TraceWorkload, Workload
from fapool.store import RunFolder, Store


def make_spec(**changes) -> RunSpec:
    fields = {"model": "tiny", "plan": Static(), "device": "cpu", "block": 16}
    fields |= {"prefill_chunk": 32, "warmup": 0}
    fields |= {"workload": Workload(batch=2, context=40, output=3)}
    return RunSpec(**(fields | changes))


def run(spec: RunSpec, folder: RunFolder) -> str:
    return rank_side.run(spec, rank=0, store=rank_side.open_store(), folder=folder.path)


@pytest.fixture
def folder(profiles) -> RunFolder:
    return Store(profiles).create(make_spec())


@pytest.mark.parametrize("plan", [Static(), FAPool(base=1, pool=0, threshold=32)], ids=str)
def test_one_rank_alone_leaves_a_whole_run(profiles, plan):
    spec = make_spec(plan=plan, repeats=2, warmup=1)
    folder = Store(profiles).create(spec)
    finished = folder.finish(run(spec, folder))
    assert finished.status.state == "finished"
    assert finished.correctness["passed"] is True
    assert len(finished.table("requests")) == 4
    assert breakdown(load(finished)).exchanges == 0  # nobody to talk to
    assert "rank 0" in folder.log(0).read_text()
    assert not dist.is_initialized()


def test_a_run_after_another_in_the_same_process_is_whole_too(profiles):
    store = Store(profiles)
    for _ in range(2):
        folder = store.create(make_spec())
        folder.finish(run(make_spec(), folder))
    assert [found.status.state for found in store.runs()] == ["finished"] * 2


def test_a_plan_with_other_weights_fails_its_check_and_measures_nothing(folder, monkeypatch):
    take = execution.take

    def with_others(spec, place, **parts):
        return take(spec.replace(seed=spec.seed + 1), place, **parts)

    monkeypatch.setattr(execution, "take", with_others)
    with pytest.raises(CheckFailed, match="not the reference's"):
        run(make_spec(), folder)
    assert folder.read_json("correctness.json")["passed"] is False
    rank, why = folder.first_failure()
    assert (rank, why.split(":")[0]) == (0, "CheckFailed")
    assert list(folder.path.glob("parts/*")) == []
    assert "Traceback" in folder.log_tail(0)
    assert not dist.is_initialized()


def test_a_logit_that_is_not_a_number_fails_the_check(folder, monkeypatch):
    draw = seat.Source.gain

    def poisoned(source, name):
        return draw(source, name) * (float("nan") if name == "norm_final" else 1)

    monkeypatch.setattr(execution, "take", _poisoning(execution.take, poisoned, monkeypatch))
    with pytest.raises(CheckFailed):
        run(make_spec(), folder)
    assert folder.read_json("correctness.json")["passed"] is False


def _poisoning(take, gain, monkeypatch):
    """`take` whose weights, and only those, have `gain`; the reference draws its own, sound."""

    def poisoned(spec, place, **parts):
        with monkeypatch.context() as patch:
            patch.setattr(seat.Source, "gain", gain)
            return take(spec, place, **parts)

    return poisoned


def test_an_error_in_the_middle_is_left_in_the_folder_with_its_rank(folder, monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError("in the middle")

    monkeypatch.setattr(execution.Execution, "measure", broken)
    with pytest.raises(ZeroDivisionError):
        run(make_spec(), folder)
    assert folder.first_failure() == (0, "ZeroDivisionError: in the middle")
    assert "in the middle" in folder.log_tail(0)


def test_one_cache_at_a_time_is_held_however_often_the_workload_is_repeated(folder, monkeypatch):
    alive: weakref.WeakSet = weakref.WeakSet()
    most = []

    class Counted(seat.KVCache):
        def __init__(self, **sizes) -> None:
            most.append(len(alive))  # others, when this one takes its memory
            super().__init__(**sizes)
            alive.add(self)

    monkeypatch.setattr(seat, "KVCache", Counted)
    run(make_spec(repeats=3, warmup=2, capture={"profile_steps": 1}), folder)
    assert len(most) == 1 + 1 + 1  # check; warm-ups and repeats, on one and the same; trace
    assert set(most) == {0}


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
def test_every_dtype_passes_its_own_check(profiles, dtype):
    model = make_spec().model.model_copy(update={"dtype": dtype})
    spec = make_spec(model=model)
    folder = Store(profiles).create(spec)
    assert run(spec, folder) == "finished"
    found = folder.read_json("correctness.json")
    assert found["passed"] is True
    assert found["error"] > 0 or dtype == "float64"


def test_a_trace_of_lengths_gives_the_requests_of_a_run(profiles, tmp_path):
    lengths = tmp_path / "lengths.jsonl"
    lengths.write_text('{"input_length": 70, "output_length": 2}\n' * 3)
    work = TraceWorkload(path=lengths, sample=3, batch=2, length_scale=0.5)
    spec = make_spec(plan=FAPool(base=1, pool=0, threshold=64), workload=work)
    folder = Store(profiles).create(spec)
    found = folder.finish(run(spec, folder)).table("requests")
    assert found[["context", "output"]].to_numpy().tolist() == [[35, 1]] * 3


@pytest.mark.gpu(1)
def test_memory_of_a_gpu_is_handed_back(profiles):
    spec = make_spec(device="cuda", model="paper-4l", block=256, prefill_chunk=2048)
    folder = Store(profiles).create(spec)
    before = torch.cuda.mem_get_info()[0]
    folder.finish(run(spec, folder))
    assert before - torch.cuda.mem_get_info()[0] < 2**30  # the context stays, the weights do not


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a host without CUDA")
def test_a_gpu_that_is_not_there_is_refused_by_name(folder):
    with pytest.raises(SpecError, match=r"device = 'cuda': .*cpu"):
        run(make_spec(device="cuda"), folder)


def test_word_of_a_failure_is_left_before_anything_is_taken_down(folder, monkeypatch):
    found, destroy = [], dist.destroy_process_group

    def watched() -> None:
        found.append(folder.first_failure())
        destroy()

    def broken(*_, **__):
        raise ZeroDivisionError("in the middle")

    monkeypatch.setattr(rank_side.dist, "destroy_process_group", watched)
    monkeypatch.setattr(execution.Execution, "measure", broken)
    with pytest.raises(ZeroDivisionError):
        run(make_spec(), folder)
    assert found == [(0, "ZeroDivisionError: in the middle")]
    assert folder.log_tail(0).count("Traceback") == 1


def test_shared_memory_that_a_device_does_not_have_is_refused_before_anything_starts(monkeypatch):
    assert rank_side.check_kernel(make_spec(), 0).type == "cpu"
    spec = make_spec(transport="symmetric", device="auto", model="tiny")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SpecError, match=r"transport = 'symmetric': .*not on cpu; choose auto"):
        rank_side.check_kernel(spec, 0)
