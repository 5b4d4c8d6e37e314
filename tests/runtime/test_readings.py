"""What a whole run reads of its one rank, beside its spans."""

import pytest

from fapool import rank as rank_side
from fapool.analysis.energy import joules
from fapool.analysis.kv import per_request
from fapool.analysis.load import load
from fapool.forecast.memory import footprint
from fapool.instrument.snapshot import NO_GPU
from fapool.phases import Owner
from fapool.spec import Capture, RunSpec, Static, Workload
from fapool.store import Run, Store


def run(profiles, **changes) -> Run:
    work = Workload(batch=4, context=40, output=6)
    fields = {"model": "tiny", "plan": Static(), "block": 16, "prefill_chunk": 32, "warmup": 1}
    fields |= {"workload": work, "capture": Capture(memory_snapshot=True), "repeats": 2}
    spec = RunSpec(**(fields | changes))
    folder = Store(profiles).create(spec)
    ending = rank_side.run(spec, rank=0, store=rank_side.open_store(), folder=folder.path)
    return folder.finish(ending)


def test_a_cpu_reads_memory_and_keys_and_says_that_there_is_no_snapshot(profiles):
    found = run(profiles, device="cpu")
    tables = load(found)
    assert set(tables.memory["owner"]) == set(Owner) - {Owner.ALLOCATOR}
    peaks = per_request(tables)
    assert peaks["tokens"].tolist() == [40 + 5] * 4 * 2  # the last token's keys are not needed
    assert peaks["blocks"].tolist() == [3] * 4 * 2
    assert set(peaks["step"]) == {tables.steps["step"].max()}
    assert joules(tables) == {}
    assert found.environment["ranks"][0]["memory_snapshot"] == NO_GPU
    assert not (found.path / "memory").exists()


@pytest.mark.gpu(1)
def test_a_gpu_reads_energy_too_and_leaves_a_snapshot(profiles):
    work = Workload(batch=8, context=4096, output=200)
    changes = {"device": "cuda", "model": "paper-4l", "block": 256, "prefill_chunk": 2048}
    found = run(profiles, workload=work, **changes)
    tables = load(found)
    assert (found.path / "memory" / "rank0.pickle").stat().st_size > 10_000
    seconds = (tables.energy["end_ns"] - tables.energy["begin_ns"]).sum() / 1e9
    assert 50 < joules(tables)[None] / seconds < 1200  # W, idle to the limit of any
    steps = tables.steps.groupby(["repeat", "rank"])
    lasted = (steps["end_ns"].max() - steps["start_ns"].min()).sum() / 1e9
    assert lasted < seconds < lasted + 2 * 0.06  # two repeats: clocks are asked before and after
    held = tables.memory[tables.memory["owner"] == Owner.BUFFERS]["bytes"].max()
    forecast = footprint(found.spec)[0]
    assert 0 < held <= forecast[Owner.BUFFERS]  # logits of a graph and of its twin
