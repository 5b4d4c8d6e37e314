"""Peaks by owner and rank, and readings over time."""

from fapool.analysis import memory
from fapool.analysis.load import load
from fapool.phases import Owner
from tests.synthetic import write_run


def test_a_peak_is_the_highest_reading_of_a_rank(tmp_path):
    found = memory.peak(load(write_run(tmp_path))).set_index(["rank", "owner"])
    # two requests of 96 + 3 cached tokens, 1000 bytes each, held by the pool alone
    assert found.loc[(2, "kv_used"), "bytes"] == 2 * 99 * 1000
    assert found.loc[(0, "kv_used"), "bytes"] == 0
    assert found.loc[(0, "weights"), "role"] == "base"
    assert found.loc[(3, "weights"), "role"] == "pool"


def test_time_runs_from_the_first_step_of_each_repeat(tmp_path):
    found = memory.over_time(load(write_run(tmp_path)), Owner.KV_USED)
    pool = found.query("rank == 2")
    assert (
        pool.groupby("repeat")["bytes"].apply(list).tolist()
        == [[192_000, 194_000, 196_000, 198_000]] * 2
    )
    firsts = pool.groupby("repeat")["time_s"].min()
    assert firsts.between(0.0015, 0.0018).all()
