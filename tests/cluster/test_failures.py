"""Ranks that die, raise, hang or lose their client."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from fapool.cluster import tether
from fapool.cluster.processes import lives
from fapool.errors import RankFailed, StoreError
from fapool.spec import Model
from fapool.store import RunFolder

pytestmark = pytest.mark.ranks
LONG = 100_000
DEADLINE_S = 10

CLIENT = """
import sys, time
from fapool.cluster import Patience, Ranks
Ranks.start(1, entry="fake_rank", patience=Patience(client_s=2))
print("ready", flush=True)
time.sleep(1000)
"""


@pytest.fixture(scope="module")
def ranks(start):
    return start(3)


def fail(execution, *, after_step: int = 0, act=lambda: None) -> tuple[RankFailed, float]:
    """Let `act` harm a run that is past a step: (what it raises, seconds until then)."""
    while not any(sample.step >= after_step for sample in execution.samples().values()):
        time.sleep(0.02)
    began = time.monotonic()
    act()
    with pytest.raises(RankFailed) as caught:
        execution.wait(60)
    return caught.value, time.monotonic() - began


def test_a_killed_rank_is_named_with_its_last_lines_and_replaced(ranks, store, make_spec):
    before = [rank["pid"] for rank in ranks.describe()]
    # Rank 1 sleeps, so that rank 0 sits in a collective and cannot notice by itself.
    execution = ranks.run(make_spec(3, LONG, model=six_heads(), name="hang"), store)
    error, took_s = fail(execution, after_step=3, act=lambda: os.kill(before[2], signal.SIGKILL))
    assert took_s < DEADLINE_S
    assert error.rank == 2 and "was killed by SIGKILL" in error.reason
    assert "rank 2 is at step 3" in str(error)
    status = store.open(execution.folder.path.name).status
    assert (status.state, status.rank) == ("failed", 2)
    assert "rank 2 is at step 3" in status.log_tail

    assert ranks.run(make_spec(3, 3, model=six_heads()), store).wait(60).status.state == "finished"
    assert ranks.describe()[2]["pid"] != before[2]


def test_a_rank_that_raises_is_named_and_stays_warm(ranks, store, make_spec):
    before = ranks.describe()[1]["pid"]
    error, took_s = fail(ranks.run(make_spec(2, LONG, name="raise"), store))
    assert took_s < DEADLINE_S
    assert error.rank == 1 and "two and two are five" in error.reason
    assert psutil.pid_exists(before)


def test_a_rank_that_died_between_runs_is_replaced_and_one_that_leaves_is_named(
    ranks, store, make_spec
):
    idle = ranks.describe()[2]["pid"]
    os.kill(idle, signal.SIGKILL)
    while psutil.pid_exists(idle) and lives(psutil.Process(idle)):
        time.sleep(0.02)
    error, _ = fail(ranks.run(make_spec(2, LONG, name="leave"), store))
    assert error.rank == 1 and "exit code 7" in error.reason
    assert ranks.describe()[2]["pid"] != idle


def test_a_dead_controller_is_replaced_with_all_ranks(ranks, store, make_spec):
    before = {rank["pid"] for rank in ranks.describe()}
    (controller,) = [
        process for process in psutil.Process().children() if "controller" in process.cmdline()
    ]
    schedulers = controller.children(recursive=True)
    controller.kill()
    controller.wait(5)
    assert ranks.run(make_spec(2, 2), store).wait(60).status.state == "finished"
    assert before.isdisjoint(rank["pid"] for rank in ranks.describe())
    assert schedulers and not any(map(lives, schedulers))


def test_silence_ends_a_run(ranks, store, make_spec):
    error, took_s = fail(
        ranks.run(make_spec(2, LONG), store),
        after_step=3,
        act=lambda: os.kill(ranks.describe()[1]["pid"], signal.SIGSTOP),
    )
    assert 4 < took_s < DEADLINE_S
    assert error.rank == 1 and "is suspended: no word for 5 s" in error.reason


def test_a_full_disk_ends_a_run_whose_folder_cannot_be_closed(ranks, store, make_spec, monkeypatch):
    with monkeypatch.context() as patch:
        execution = ranks.run(make_spec(2, LONG, name="raise"), store)
        patch.setattr(RunFolder, "write_json", no_space)  # of this process: it closes the folder
        error, took_s = fail(execution)
    assert took_s < DEADLINE_S and not ranks.busy
    assert "two and two are five" in error.reason
    assert "could not be closed as failed" in error.reason and "No space left" in error.reason
    assert ranks.run(make_spec(2, 3), store).wait(60).status.state == "finished"


def test_a_folder_that_vanishes_under_a_run_ends_it(ranks, store, make_spec, tmp_path):
    execution = ranks.run(make_spec(2, LONG), store)
    error, took_s = fail(
        execution, after_step=3, act=lambda: execution.folder.path.rename(tmp_path / "away")
    )
    assert took_s < DEADLINE_S and not ranks.busy
    assert f"{execution.folder.path.name} could not be closed" in error.reason
    with pytest.raises(RankFailed):
        execution.wait(0)
    assert ranks.run(make_spec(2, 3), store).wait(60).status.state == "finished"


def test_a_run_that_cannot_be_closed_as_finished_is_no_hang(ranks, store, make_spec, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "finish", no_space)
        with pytest.raises(RankFailed, match=r"could not be closed: .*No space left"):
            ranks.run(make_spec(1, 3), store).wait(60)
    assert [run.status.state for run in store.runs()] == ["failed"]


def test_a_stop_that_cannot_be_written_says_what_else_to_do(ranks, store, make_spec, tmp_path):
    execution = ranks.run(make_spec(1, LONG), store)
    away = execution.folder.path.rename(tmp_path / "away")
    with pytest.raises(StoreError, match="close the ranks instead"):
        execution.stop()
    assert away.exists()
    with pytest.raises(RankFailed):
        execution.wait(30)


def test_nothing_survives_a_client_that_was_killed():
    with subprocess.Popen([sys.executable, "-c", CLIENT], stdout=subprocess.PIPE) as client:
        assert client.stdout.readline() == b"ready\n"
        family = psutil.Process(client.pid).children(recursive=True)
        assert len(family) >= 2
        client.kill()
    _, left = psutil.wait_procs(family, timeout=DEADLINE_S)
    assert not any(map(lives, left))


def test_a_tether_holds_while_the_client_lives_and_lets_go_after_the_grace(tmp_path):
    assert not tether.has_client(tmp_path)
    tether.take(tmp_path)
    assert tether.has_client(tmp_path)
    (tmp_path / tether.CLIENT).write_text('{"pid": 1, "created": 0}')  # a pid used again
    assert not tether.has_client(tmp_path)
    began = time.monotonic()
    tether.hold(Path(tmp_path), 0.2)
    assert time.monotonic() - began < 2


def no_space(*_args, **_named):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def six_heads():
    return Model.preset("tiny", heads=6, kv_heads=6, ffn=192)
