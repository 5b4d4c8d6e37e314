"""Peaks by owner and rank, and readings over time."""

import pytest

from fapool.analysis import memory
from fapool.analysis.load import Tables, load
from fapool.phases import Owner
from tests.synthetic import write_run


@pytest.fixture(scope="module")
def tables(tmp_path_factory) -> Tables:
    return load(write_run(tmp_path_factory.mktemp("profiles")))


def test_a_peak_is_the_highest_reading_of_a_rank(tmp_path):
    found = memory.peak(load(write_run(tmp_path))).set_index(["rank", "owner"])
    # two requests of 96 + 3 cached tokens, 1000 bytes each, held by the pool alone
    assert found.loc[(2, "kv_used"), "bytes"] == 2 * 99 * 1000
    assert found.loc[(0, "kv_used"), "bytes"] == 0
    assert found.loc[(0, "weights"), "role"] == "base"
    assert found.loc[(3, "weights"), "role"] == "pool"


def test_a_peak_has_its_moment_and_the_sum_one_of_its_own(tables):
    found = memory.peak(tables).set_index(["rank", "owner"])
    used, whole = found.loc[(2, "kv_used")], found.loc[(2, memory.SUM)]
    # the last of four steps has most keys; of both repeats the first counts
    assert (used["repeat"], used["step"]) == (0, 3)
    last = tables.steps.query("rank == 2 and repeat == 0 and step == 3")
    began = tables.steps.query("repeat == 0")["start_ns"].min()
    assert used["time_s"] == pytest.approx((last["end_ns"].item() - began) / 1e9)
    assert whole["bytes"] == 300_000 + 50_000 + 20_000  # keys in use lie in those reserved
    assert whole["step"] == 0


def test_parts_over_time_are_the_readings_until_there_are_too_many(tables):
    every = memory.parts_over_time(tables)
    assert len(every) == 4 * 2 * 4
    assert (every["weights"] == 400_000 * (every["role"] == "base")).all()
    few = memory.parts_over_time(tables, most=3)
    assert few.groupby("rank").size().tolist() == [3] * 4
    assert all(times.is_monotonic_increasing for _, times in few.groupby("rank")["time_s"])


@pytest.mark.parametrize("most", [1, 2, 5])
def test_thinning_keeps_the_peak(tables, most):
    rows = tables.memory
    at = rows.query("rank == 1 and repeat == 1 and step == 1 and owner == 'activations'").index
    rows = rows.assign(bytes=rows["bytes"].where(rows.index != at[0], 90_000_000))
    found = memory.parts_over_time(Tables(**(vars(tables) | {"memory": rows})), most=most)
    highest = found.loc[found["activations"].idxmax()]
    assert (highest["rank"], highest["repeat"], highest["step"]) == (1, 1, 1)


def test_time_runs_from_the_first_step_of_each_repeat(tmp_path):
    found = memory.over_time(load(write_run(tmp_path)), Owner.KV_USED)
    pool = found.query("rank == 2")
    assert (
        pool.groupby("repeat")["bytes"].apply(list).tolist()
        == [[192_000, 194_000, 196_000, 198_000]] * 2
    )
    firsts = pool.groupby("repeat")["time_s"].min()
    assert firsts.between(0.0015, 0.0018).all()
