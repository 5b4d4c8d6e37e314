"""Runs that go well, or are refused, on two warm ranks."""

import logging
import subprocess
import sys
import threading
import time

import psutil
import pytest

from fapool.cluster import Ranks
from fapool.errors import FapoolError, RankFailed, SpecError, TraceFileError
from fapool.spec import FAPool, Model, Static, TraceWorkload, Workload

pytestmark = pytest.mark.ranks
LONG = 100_000


@pytest.fixture(scope="module")
def heard() -> list[str]:
    return []


@pytest.fixture(scope="module")
def ranks(start, heard):
    return start(2, on_progress=heard.append)


def wait_for_step(execution, step: int) -> None:
    deadline = time.monotonic() + 20
    while not any(sample.step >= step for sample in execution.samples().values()):
        assert not execution.done and time.monotonic() < deadline
        time.sleep(0.02)


def test_starting_tells_how_far_it_is(ranks, heard):
    assert heard[0] == "starting 2 of 2 ranks"
    assert heard[-1] == "2 ranks are ready"


def test_ranks_describe_themselves(ranks):
    described = ranks.describe()
    assert len({rank["pid"] for rank in described}) == ranks.n == 2
    assert all(psutil.pid_exists(rank["pid"]) for rank in described)


def test_the_client_loads_no_torch():
    program = "import sys, fapool.cluster; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def test_a_run_streams_samples_and_closes_its_folder(ranks, store, make_spec):
    execution = ranks.run(make_spec(2, 40), store)
    assert not execution.done
    seen = []
    execution.add_listener(
        lambda it: seen.append((it.done, it.samples(), threading.current_thread()))
    )
    run = execution.wait(30)
    assert run.status.state == "finished"
    assert store.open(run.name).environment == {"world": 2}
    while not seen[-1][0]:
        time.sleep(0.01)
    assert [done for done, _, _ in seen].count(True) == 1
    steps = [samples[1].step for _, samples, _ in seen if 1 in samples]
    assert steps == sorted(steps) and len(set(steps)) >= 4
    assert steps[-1] == 39
    assert threading.main_thread() not in {thread for _, _, thread in seen}


def test_the_next_run_reuses_the_same_processes(ranks, store, make_spec):
    before = [rank["pid"] for rank in ranks.describe()]
    began = time.monotonic()
    ranks.run(make_spec(2, 2), store).wait(30)
    assert time.monotonic() - began < 3  # a new process would need longer to import torch alone
    assert [rank["pid"] for rank in ranks.describe()] == before


def test_ranks_beyond_the_plan_stay_idle(ranks, store, make_spec):
    execution = ranks.run(make_spec(1, 3), store)
    assert execution.wait(30).environment == {"world": 1}
    assert set(execution.samples()) == {0}


def test_stop_ends_the_run_within_a_step(ranks, store, make_spec):
    execution = ranks.run(make_spec(2, LONG), store)
    wait_for_step(execution, 5)
    at = max(sample.step for sample in execution.samples().values())
    execution.stop()
    assert execution.wait(10).status.state == "stopped"
    # The last sample seen may be a poll old: 0.1 s of steps of 0.02 s.
    assert execution.samples()[0].step - at < 15
    execution.stop()  # too late, and no harm


def test_one_run_at_a_time(ranks, store, make_spec):
    execution = ranks.run(make_spec(2, LONG), store)
    with pytest.raises(FapoolError, match="a run goes on"):
        ranks.run(make_spec(2, 2), store)
    with pytest.raises(TimeoutError, match="goes on after"):
        execution.wait(0.05)
    execution.stop()
    execution.wait(10)
    assert len(store.runs()) == 1


def test_what_a_listener_raises_is_logged(ranks, store, make_spec, caplog):
    execution = ranks.run(make_spec(1, 5), store)
    with caplog.at_level(logging.ERROR, "fapool.cluster"):
        execution.add_listener(lambda it: 1 / 0)
        execution.wait(30)
        time.sleep(0.1)
    assert "ZeroDivisionError" in caplog.text


def test_a_listener_that_comes_late_is_called_at_once(ranks, store, make_spec):
    execution = ranks.run(make_spec(1, 2), store)
    execution.wait(30)
    seen = []
    execution.add_listener(seen.append)
    assert seen == [execution]


HUGE = Workload(batch=1000, context=1_000_000, output=2)


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"plan": FAPool(base=1, pool=2, threshold=16)}, "plan.pool = 2: at most 1"),
        ({"plan": Static(tp=4)}, "takes 4 ranks; 2 are at hand"),
        ({"model": Model.preset("13b"), "workload": HUGE}, "workload = .*rank 0 would need"),
        ({"device": "cuda"}, "device = 'cuda'"),
        ({"device": "auto", "backend": "triton"}, "backend = 'triton': .*ranks are on cpu"),
        ({"device": "auto", "transport": "symmetric"}, "transport = 'symmetric': .*choose auto"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_starts(ranks, store, make_spec, changes, names):
    with pytest.raises(SpecError, match=names):
        ranks.run(make_spec(2, 2, **changes), store)
    assert list(store.root.iterdir()) == []
    assert not ranks.busy


def test_ranks_on_one_machine_share_its_memory(ranks, make_spec):
    model = Model.preset("cpu", kv_heads=1)  # that both ranks of two would hold
    batch = 64
    context = int(0.6 * psutil.virtual_memory().total) // model.kv_bytes_per_token // batch
    work = Workload(batch=batch, context=context, output=1)
    changes = {"model": model, "workload": work, "block": 256, "prefill_chunk": 256}
    ranks.check(make_spec(1, 1, **changes))
    with pytest.raises(SpecError, match="rank 0 would need"):
        ranks.check(make_spec(2, 1, **changes))


def test_a_missing_trace_is_refused_before_anything_starts(ranks, store, make_spec, tmp_path):
    work = TraceWorkload(path=tmp_path / "none.csv", sample=2)
    with pytest.raises(TraceFileError, match="cannot be read"):
        ranks.run(make_spec(2, 2, workload=work), store)
    assert list(store.root.iterdir()) == []


@pytest.mark.parametrize("n", [0, -1, 1.5, True, "4"])
def test_a_number_of_ranks_that_is_none_is_refused(n):
    with pytest.raises(SpecError, match="ranks = "):
        Ranks.start(n)


def test_a_rank_side_that_cannot_be_imported_says_so(ranks, store, make_spec, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(ranks._engines, "entry", "no_such_rank")
        with pytest.raises(RankFailed, match=r"rank 0 raised ModuleNotFoundError: .*no_such"):
            ranks.run(make_spec(1, 2), store).wait(30)
    assert [run.status.state for run in store.runs()] == ["failed"]
    assert ranks.run(make_spec(1, 2), store).wait(30).status.state == "finished"


def test_closing_in_the_middle_of_a_run_marks_it_failed(ranks, store, make_spec):
    # The last test of the module: there are no ranks after it.
    execution = ranks.run(make_spec(2, LONG), store)
    wait_for_step(execution, 2)
    ranks.close()
    assert execution.done
    with pytest.raises(RankFailed, match="the run was ended by the user: its ranks"):
        execution.wait()
    (run,) = store.runs()
    assert run.status.state == "failed"
    ranks.close()
    with pytest.raises(FapoolError, match="closed"):
        ranks.run(make_spec(2, 2), store)
