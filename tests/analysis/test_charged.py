"""Nobody is charged for more than elapsed: step borders are each rank's own."""

from dataclasses import replace

import pytest

from fapool.analysis.breakdown import breakdown
from fapool.analysis.charged import Charge, charge
from fapool.analysis.load import load
from fapool.analysis.metrics import metrics
from fapool.spec import Static
from tests.synthetic import small_spec, write_run


@pytest.fixture
def tables(tmp_path):
    return load(write_run(tmp_path, small_spec(repeats=1)))


def lasting(tables, *, rank: int, step: int, leased: int, start_ns: int, end_ns: int):
    """The run with all but one step of a rank taken away, and that one moved."""
    steps = tables.steps[(tables.steps["rank"] != rank) | (tables.steps["step"] == step)].copy()
    row = steps["rank"] == rank
    steps.loc[row, ["leased", "start_ns", "end_ns"]] = [leased, start_ns, end_ns]
    return replace(tables, steps=steps.reset_index(drop=True))


def test_a_pool_step_that_holds_the_bases_prefill_is_charged_for_decoding_only_in_part(tables):
    steps = tables.steps[tables.steps["rank"] == 0]
    start, end = int(steps["start_ns"].min()), int(tables.steps["end_ns"].max())
    for rank in (2, 3):  # one decode step that lasts as long as the run
        tables = lasting(tables, rank=rank, step=2, leased=2, start_ns=start, end_ns=end)
    found = charge(tables)
    assert found.gpus == found.decode_gpus == 4
    assert found.elapsed_ns == end - start
    known = metrics(tables, breakdown(tables))
    assert known["tpot_charged_gpu"] == known["tpot_gpu"]
    assert known["tps_per_charged_gpu"] == known["tps_per_gpu"]


def test_a_pool_rank_without_a_lease_is_not_charged(tables):
    start, end = int(tables.steps["start_ns"].min()), int(tables.steps["end_ns"].max())
    for rank in (2, 3):
        tables = lasting(tables, rank=rank, step=2, leased=0, start_ns=start, end_ns=end)
    found = charge(tables)
    assert found.gpus == found.decode_gpus == 2


def test_a_lease_is_charged_where_it_meets_decode_steps(tables):
    decode = tables.steps.query("rank == 0 and step == 2").iloc[0]
    half = int(decode["start_ns"] + (decode["end_ns"] - decode["start_ns"]) // 2)
    for rank, leased in ((2, 1), (3, 0)):
        tables = lasting(
            tables, rank=rank, step=2, leased=leased, start_ns=half, end_ns=int(decode["end_ns"])
        )
    found = charge(tables)
    assert found.charged_ns == 2 * found.elapsed_ns + int(decode["end_ns"]) - half
    assert found.decode_charged_ns == 2 * found.decode_ns + int(decode["end_ns"]) - half


def test_without_a_pool_what_is_charged_is_what_is_reserved(tmp_path):
    tables = load(write_run(tmp_path, small_spec(plan=Static(tp=4))))
    found = metrics(tables, breakdown(tables))
    assert found["charged_gpus"] == found["gpus"] == 4
    assert found["tps_per_charged_gpu"] == found["tps_per_gpu"]
    assert found["tpot_charged_gpu"] == found["tpot_gpu"]


def test_a_charge_past_what_is_reserved_is_a_mistake_of_ours():
    with pytest.raises(AssertionError, match="more than was reserved"):
        Charge(reserved=2, elapsed_ns=10, charged_ns=21, decode_ns=0, decode_charged_ns=0)
