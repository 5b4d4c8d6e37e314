"""Steps that are traced are the steps that run: on GPUs, replays of captured graphs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fapool.analysis.deep.agreement import TracedRun, traced_run
from fapool.spec import Capture, FAPool, RunSpec, Static, Workload
from fapool.store import Run, Store

ROOT = Path(__file__).parents[2]
STEPS, PATIENCE_S = 6, 300


def run_on_gpus(plan, profiles: Path, folder: Path, **changes) -> Run:
    """A whole run in processes of their own, with a trace of `STEPS` decode steps."""
    fields = {"model": "paper-4l", "plan": plan, "device": "cuda", "warmup": 1}
    fields |= {"workload": Workload(batch=8, context=4096, output=40)}
    fields |= {"capture": Capture(profile_steps=STEPS, sample_every=2)}
    spec = RunSpec(**(fields | changes))
    (path := folder / "spec.yaml").write_text(spec.to_yaml())
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node"]
    command += [str(plan.world), "-m", "fapool", "run", str(path)]
    subprocess.run(command, cwd=ROOT, env=os.environ, check=True, timeout=PATIENCE_S)
    (run,) = Store(profiles).runs()
    return run


def check(found: TracedRun, *, world: int) -> None:
    """Replays are all known, sampled ones are every second, and live says what the trace says."""
    deep, depths = found.found, found.depths
    assert depths is not None
    graph = deep.kernels[deep.kernels["graph"] >= 0]
    assert len(graph)
    assert graph["why"].isin(["", "captured outside of all spans"]).all(), deep.notes
    lost = graph.loc[graph["why"] != ""]
    busy = (graph["end_ns"] - graph["start_ns"]).sum()
    assert (lost["end_ns"] - lost["start_ns"]).sum() < 0.05 * busy
    assert deep.replays.groupby("rank")["replays"].sum().tolist() == [STEPS] * world
    assert deep.replays.groupby("rank")["sampled"].sum().tolist() == [STEPS // 2] * world
    assert not [note for note in deep.notes if "graph" in note]
    odd = deep.disagreements
    assert odd[~odd["expected"].astype(bool)].empty, odd.to_string()
    assert depths.rows.groupby("rank")["step"].nunique().tolist() == [STEPS // 2] * world
    assert depths.worst < 0.03, depths.rows.to_string()


@pytest.mark.ranks
@pytest.mark.gpu(1)
def test_replays_of_one_gpu_are_attributed_and_agree_with_live_spans(profiles, tmp_path):
    check(traced_run(run_on_gpus(Static(), profiles, tmp_path)), world=1)


@pytest.mark.ranks
@pytest.mark.gpu(2)
def test_replays_of_base_and_pool_are_attributed_and_agree_with_live_spans(profiles, tmp_path):
    plan = FAPool(base=1, pool=1, threshold=1024)
    check(traced_run(run_on_gpus(plan, profiles, tmp_path)), world=2)


@pytest.mark.ranks
@pytest.mark.gpu(2)
def test_without_graphs_kernels_are_attributed_by_their_launches(profiles, tmp_path):
    plan = FAPool(base=1, pool=1, threshold=1024)
    found = traced_run(run_on_gpus(plan, profiles, tmp_path, graphs=False))
    assert found.found.replays.empty
    lost = found.found.unattributed
    assert (
        lost["ns"].sum()
        < 0.05 * (found.found.kernels["end_ns"] - found.found.kernels["start_ns"]).sum()
    )
    assert found.depths.rows.groupby("rank")["step"].nunique().tolist() == [STEPS] * 2
