"""Traces of two real ranks open in TensorBoard's plugin and in HTA, as far as either goes.

Two CPU ranks are traced here; two GPU ranks were traced on H200s (`tests/data`, five decode and
prefill steps of FAPool(1,1)). HTA loads CPU-only traces, aligns them and finds their steps; its
analyses need GPU kernels.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import requests

from tests.instrument import profiled_rank

pytestmark = pytest.mark.ranks
ROOT = Path(__file__).parent.parent.parent
DEADLINE_S = 90
RUN = "20261122-fapool/trace"  # as the plugin names a run folder's traces
GPU_RUN = "h200-fapool-1-1/trace"
DATA = ROOT / "tests" / "data"


def end(process: subprocess.Popen) -> None:
    """End a process and those that it started."""
    try:
        family = [*psutil.Process(process.pid).children(recursive=True), process]
    except psutil.NoSuchProcess:
        return
    for member in family:
        member.kill()
    process.wait()


@pytest.fixture(scope="module")
def profiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one run's folder that holds the traces of two ranks."""
    profiles = tmp_path_factory.mktemp("profiles")
    folder = profiles / RUN.partition("/")[0]
    folder.mkdir()
    store = tmp_path_factory.mktemp("store") / "store"
    script = "from tests.instrument.profiled_rank import main; from pathlib import Path; "
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", f"{script} main({rank}, {str(store)!r}, Path({str(folder)!r}))"],
            cwd=ROOT,
            env=os.environ | {"KINETO_LOG_LEVEL": "6"},
        )
        for rank in range(2)
    ]
    try:
        assert [rank.wait(DEADLINE_S) for rank in ranks] == [0, 0]
    finally:
        for rank in ranks:
            end(rank)
    shutil.copytree(DATA / GPU_RUN, profiles / GPU_RUN)
    return profiles


@pytest.fixture(scope="module")
def plugin(profiles: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The plugin's address in a TensorBoard that has just started on a free port."""
    log = tmp_path_factory.mktemp("log") / "tensorboard.log"
    command = [sys.executable, "-m", "tensorboard.main", "--load_fast=false"]
    command += ["--logdir", str(profiles), "--host", "127.0.0.1", "--port", "0"]
    with log.open("w") as output:
        server = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        yield address(server, log) + "/data/plugin/pytorch_profiler"
    finally:
        end(server)


def address(server: subprocess.Popen, log: Path) -> str:
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline and server.poll() is None:
        if found := re.search(r"http://[\d.]+:\d+", log.read_text()):
            return found[0]
        time.sleep(0.2)
    pytest.fail(f"TensorBoard did not start:\n{log.read_text()}", pytrace=False)


def loaded_runs(plugin: str) -> list[str]:
    deadline = time.monotonic() + DEADLINE_S
    answer = {"runs": [], "loading": True}
    while time.monotonic() < deadline and (answer["loading"] or len(answer["runs"]) < 2):
        time.sleep(0.2)
        answer = requests.get(f"{plugin}/runs", timeout=10).json()
    return answer["runs"]


def get(plugin: str, view: str, /, **query: str):
    answer = requests.get(f"{plugin}/{view}", params=query, timeout=10)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_tensorboard_shows_the_run_with_its_ranks_and_operators(plugin):
    assert sorted(loaded_runs(plugin)) == [RUN, GPU_RUN]
    assert get(plugin, "views", run=RUN) == ["Overview", "Operator", "Trace", "Distributed"]
    assert get(plugin, "workers", run=RUN, view="Overview") == ["rank0", "rank1"]
    for worker in ("rank0", "rank1"):
        (span,) = get(plugin, "spans", run=RUN, view="Overview", worker=worker)
        overview = get(plugin, "overview", run=RUN, worker=worker, span=span, view="Overview")
        steps = overview["steps"]["rows"]
        assert [row[0] for row in steps] == ["1", "2", "3"]
        same = {"run": RUN, "worker": worker, "span": span, "view": "Operator"}
        table = get(plugin, "operation/table", group_by="Operation", **same)
        operators = {row["name"]: row["calls"] for row in table["data"]}
        assert operators["aten::matmul"] == operators["ffn"] == 3 * profiled_rank.PROFILED


def test_tensorboard_shows_the_kernels_of_gpu_ranks(plugin):
    assert GPU_RUN in loaded_runs(plugin)
    assert "Kernel" in get(plugin, "views", run=GPU_RUN)
    for worker in ("rank0", "rank1"):
        same = {"run": GPU_RUN, "worker": worker, "view": "Kernel"}
        (span,) = get(plugin, "spans", **same)
        table = get(plugin, "kernel/table", span=span, **same)
        kernels = [row[0] for row in table["data"]["rows"]]
        assert any("flash_fwd_splitkv" in kernel for kernel in kernels) == (worker == "rank1")
        assert any("ncclDevKernel_SendRecv" in kernel for kernel in kernels)


@pytest.mark.filterwarnings("ignore:The inplace keyword")
def test_hta_parts_the_time_of_gpu_ranks(monkeypatch):
    monkeypatch.setenv("HTA_DISABLE_NS_ROUNDING", "1")
    from hta.trace_analysis import TraceAnalysis  # slow, and wanted here alone

    files = {rank: str(next((DATA / GPU_RUN).glob(f"rank{rank}.*"))) for rank in (0, 1)}
    parted = TraceAnalysis(trace_files=files, trace_dir="").get_temporal_breakdown(visualize=False)
    assert list(parted["rank"]) == [0, 1]
    parts = parted[["idle_time(us)", "compute_time(us)", "non_compute_time(us)"]]
    assert (parts > 0).all(axis=None)
    assert parts.sum(axis=1).tolist() == pytest.approx(parted["kernel_time(us)"].tolist())


@pytest.mark.filterwarnings("ignore:The inplace keyword")
def test_hta_loads_both_ranks_with_their_steps(profiles, monkeypatch):
    monkeypatch.setenv("HTA_DISABLE_NS_ROUNDING", "1")
    from hta.common.trace import Trace  # slow, and wanted here alone

    trace = Trace(trace_dir=str(profiles / RUN))
    trace.parse_traces(use_multiprocessing=False)
    assert sorted(trace.traces) == [0, 1]
    trace.decode_symbol_ids()
    for rank in (0, 1):
        events = trace.get_trace(rank)
        assert (events["s_name"] == "ffn").sum() == 3 * profiled_rank.PROFILED
        assert set(events["iteration"]) >= {1, 2, 3}
        assert (events["stream"] == -1).all()  # none is mistaken for a kernel
