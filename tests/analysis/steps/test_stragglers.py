"""Who waited for whom, against a count of nanoseconds, and on a run."""

import collections

import pandas as pd
import pytest
from hypothesis import given, settings

from fapool.analysis.breakdown import breakdown
from fapool.analysis.load import load
from fapool.analysis.steps.stragglers import sentences, stragglers, waits
from fapool.phases import Category
from fapool.spec import FAPool, Static
from tests.analysis.programs import WAITS, programs, soup, tables
from tests.synthetic import small_spec, write_run


def by_hand(found) -> collections.Counter:
    """(waiter, awaited, phase, what that did) -> ns, unit by unit of time."""
    events, counted = found.events, collections.Counter()
    waits = events[events["phase"].isin([*WAITS, "all_reduce"])]
    for wait in waits.drop_duplicates(["rank", "sequence"]).itertuples():  # of several senders, too
        same = events[events["sequence"] == wait.sequence]
        came = same[~same["phase"].isin(WAITS)].sort_values(["start_ns", "rank"])
        last = came.iloc[-1]
        for unit in range(wait.start_ns, min(last.start_ns, wait.end_ns)):
            under = events[(events["rank"] == last["rank"]) & (events["start_ns"] <= unit)]
            busy = under[under["end_ns"] > unit]["phase"].iloc[0]
            counted[wait.rank, int(last["rank"]), wait.phase, busy] += 1
    return counted


@settings(max_examples=15)
@given(programs)
def test_every_nanosecond_of_a_wait_has_the_rank_and_the_phase_that_made_it(program):
    found = tables(program)
    parted = breakdown(found)
    rows = waits(found, parted)
    keys = ["rank", "awaited", "phase", "busy_with"]
    assert {tuple(row[:4]): row[4] for row in rows[[*keys, "ns"]].to_numpy().tolist()} == by_hand(
        found
    )
    assert rows["ns"].sum() == parted.steps["synchronization_ns"].sum()


@pytest.mark.parametrize("seed", range(12))
def test_whatever_the_records_hold_waits_are_a_part_of_the_synchronization(seed):
    tables = soup(seed)
    parted = breakdown(tables)
    rows = waits(tables, parted)  # which asserts that they sum
    assert rows["ns"].sum() <= parted.steps["synchronization_ns"].sum()
    assert not (rows["rank"] == rows["awaited"]).any()


@pytest.mark.parametrize("plan", [None, Static(tp=4)], ids=["pool", "sum"])
def test_waits_are_all_the_synchronization_of_a_run_without_barriers(tmp_path, plan):
    spec = small_spec(plan=plan) if plan else None
    tables = load(write_run(tmp_path, spec))
    parted = breakdown(tables)
    rows = waits(tables, parted)
    by_step = rows.groupby(["repeat", "rank", "step"])["ns"].sum()
    of_steps = parted.steps.set_index(["repeat", "rank", "step"])["synchronization_ns"]
    assert by_step.eq(of_steps[by_step.index]).all()
    assert by_step.sum() == of_steps.sum()
    assert rows["exchanges"].sum() > 0


def test_the_slowest_rank_of_a_sum_is_named_with_what_kept_it(tmp_path):
    tables = load(write_run(tmp_path, small_spec(plan=Static(tp=4))))
    parted = breakdown(tables)
    found = stragglers(waits(tables, parted), parted)
    assert set(found["awaited"]) == {3}
    assert set(found["busy_with"]) == {"ffn"}
    assert found["exchanges"].tolist() == [2, 2, 2]  # two layers
    first = sentences(found)[0]
    assert first == "rank 0 waits 0.219 ms per decode step for rank 3 (all_reduce; busy with ffn)"
    synchronization = parted.steps.query("kind == 'decode'")[f"{Category.SYNCHRONIZATION}_ns"]
    assert found["ms"].sum() == pytest.approx(synchronization.sum() / 6 / 1e6)


@pytest.mark.parametrize("senders", [2, 3])
def test_a_wait_for_several_senders_is_for_the_last_of_them_and_counts_once(tmp_path, senders):
    spec = small_spec(plan=FAPool(base=1, pool=senders, threshold=64))
    tables = load(write_run(tmp_path, spec, at_once=True))
    parted = breakdown(tables)
    rows = waits(tables, parted)
    own = rows[rows["phase"] == "wait_partials"]
    posts = tables.events[tables.events["phase"] == "send_partials"]
    last = posts.loc[posts.groupby(["repeat", "step", "layer"])["start_ns"].idxmax()]
    assert set(own["awaited"]) == set(last["rank"]) == {senders}
    wait = tables.events[tables.events["phase"] == "wait_partials"]
    wait = wait.drop_duplicates(["repeat", "step", "layer"])
    both = wait.merge(last, on=["repeat", "step", "layer"])
    assert own["ns"].sum() == (both["start_ns_y"] - both["start_ns_x"]).sum() > 0
    assert own["exchanges"].sum() == len(last)


def test_sentences_name_causes_before_those_who_waited_themselves(tmp_path):
    tables = load(write_run(tmp_path))
    parted = breakdown(tables)
    found = stragglers(waits(tables, parted), parted)
    assert all("wait_" not in said.partition("busy with")[2] for said in sentences(found))


def test_a_rank_that_waited_itself_is_not_called_busy():
    row = {"rank": 0, "awaited": 1, "phase": "wait_query", "ms": 0.5, "exchanges": 1.0}
    rows = pd.DataFrame([row | {"busy_with": name} for name in ("step_barrier", "ffn")])
    assert sentences(rows) == [
        "rank 0 waits 0.500 ms per decode step for rank 1 (wait_query; busy with ffn)"
    ]
    assert sentences(rows[:1])[0].endswith("(wait_query; itself waiting in step_barrier)")


def test_sampled_steps_count_their_own_waits_alone(tmp_path):
    tables = load(write_run(tmp_path, sample_every=3))
    parted = breakdown(tables)
    rows = waits(tables, parted)
    assert set(rows["step"]) == {0, 1}
    assert rows["ns"].sum() == parted.steps["synchronization_ns"].sum()
