"""The spans of one step, cut at its borders."""

import pytest

from fapool.analysis.load import load
from fapool.analysis.steps.timeline import one_step
from fapool.errors import StoreError
from fapool.spec import FAPool
from tests.synthetic import small_spec, write_run


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    return load(write_run(tmp_path_factory.mktemp("profiles")))


def test_spans_lie_within_their_step(tables):
    found = one_step(tables, step=1)
    steps = tables.steps.query("repeat == 0 and step == 1").set_index("rank")
    began = steps["start_ns"].min()
    for rank, spans in found.groupby("rank"):
        assert spans["start_us"].min() >= (steps.loc[rank, "start_ns"] - began) / 1e3
        assert spans["end_us"].max() <= (steps.loc[rank, "end_ns"] - began) / 1e3


def test_waiting_and_transfer_of_a_wait_stand_side_by_side(tables):
    waits = one_step(tables, step=1).query("rank == 0 and phase == 'wait_partials'")
    assert waits["category"].tolist() == ["synchronization", "communication"] * 2
    assert waits["end_us"].iloc[0] == waits["start_us"].iloc[1]


@pytest.mark.parametrize("senders", [2, 3])
def test_a_wait_for_several_senders_is_drawn_once_and_waits_for_the_last(tmp_path, senders):
    spec = small_spec(plan=FAPool(base=1, pool=senders, threshold=64))
    found = one_step(load(write_run(tmp_path, spec, at_once=True)), step=1)
    waits = found[found["phase"] == "wait_partials"]
    assert waits["category"].tolist() == ["synchronization", "communication"] * 2
    posts = found[found["phase"] == "send_partials"].groupby("layer")["start_us"].max()
    assert waits["end_us"].iloc[::2].tolist() == posts.tolist()


def test_the_decode_step_of_median_length_is_taken_when_none_is_named(tables):
    assert one_step(tables).equals(one_step(tables, step=2))


def test_a_step_that_is_not_there_is_named(tables):
    with pytest.raises(StoreError, match="no step 99 in repeat 0"):
        one_step(tables, step=99)
