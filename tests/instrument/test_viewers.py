"""Traces of two real ranks open in TensorBoard's plugin and in HTA, as far as either goes on CPU.

HTA loads CPU-only traces, aligns them and finds their steps; its analyses need GPU kernels.
"""

import os
import re
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
    return profiles


@pytest.fixture
def plugin(profiles: Path, tmp_path: Path) -> Iterator[str]:
    """The plugin's address in a TensorBoard that has just started on a free port."""
    log = tmp_path / "tensorboard.log"
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
    while time.monotonic() < deadline and (answer["loading"] or not answer["runs"]):
        time.sleep(0.2)
        answer = requests.get(f"{plugin}/runs", timeout=10).json()
    return answer["runs"]


def test_tensorboard_shows_the_run_with_its_ranks_and_operators(plugin):
    assert loaded_runs(plugin) == [RUN]

    def get(view: str, /, **query: str):
        answer = requests.get(f"{plugin}/{view}", params={"run": RUN} | query, timeout=10)
        assert answer.status_code == 200, answer.text
        return answer.json()

    assert get("views") == ["Overview", "Operator", "Trace", "Distributed"]
    assert get("workers", view="Overview") == ["rank0", "rank1"]
    for worker in ("rank0", "rank1"):
        (span,) = get("spans", view="Overview", worker=worker)
        overview = get("overview", worker=worker, span=span, view="Overview")
        steps = overview["steps"]["rows"]
        assert [row[0] for row in steps] == ["1", "2", "3"]
        same = {"worker": worker, "span": span, "view": "Operator", "group_by": "Operation"}
        operators = {row["name"]: row["calls"] for row in get("operation/table", **same)["data"]}
        assert operators["aten::matmul"] == operators["ffn"] == 3 * profiled_rank.PROFILED


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
