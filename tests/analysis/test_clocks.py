"""Splits of waits that the ranks' clocks cannot tell are counted."""

from dataclasses import replace

import orjson
import pytest

from fapool.analysis.clocks import clocks, shifts_of, words_of_traces
from fapool.analysis.load import load
from fapool.spec import FAPool, Static
from fapool.store import Run
from tests.synthetic import small_spec, write_run


def with_clocks(run: Run, *uncertainty_ns: int, notes: tuple[str, ...] = ()) -> Run:
    entries = [
        {"rank": rank, "clock": {"uncertainty_ns": unsure, "notes": list(notes)}}
        for rank, unsure in enumerate(uncertainty_ns)
    ]
    (run.path / "environment.json").write_bytes(orjson.dumps({"ranks": entries}))
    return run


@pytest.fixture
def run(tmp_path) -> Run:
    return write_run(tmp_path, small_spec(plan=Static(tp=2)))


# In 8 steps rank 0 waits twice for rank 1, some 73 us each time, then 30 us of transfer.
@pytest.mark.parametrize(
    ("unsure", "close"), [((0, 0), 0), ((9_000, 20_000), 0), ((9, 40_000), 16)]
)
def test_a_split_is_close_when_both_clocks_together_may_move_it_past_an_end(run, unsure, close):
    found = clocks(with_clocks(run, *unsure), load(run))
    assert (found.splits, found.close) == (16, close)


def test_a_wait_for_several_senders_is_split_once(tmp_path):
    spec = small_spec(plan=FAPool(base=1, pool=3, threshold=64))
    run = with_clocks(write_run(tmp_path, spec, at_once=True), 1, 1, 1, 1)
    tables = load(run)
    waits = tables.events[tables.events["phase"].str.startswith("wait_")]
    spans = waits.drop_duplicates(["repeat", "rank", "start_ns"])
    assert clocks(run, tables).splits == len(spans) < len(waits)


def test_the_two_worst_clocks_are_said_together(run):
    found = clocks(with_clocks(run, 1_500, 2_600, notes=("it was stepped",)), load(run))
    assert found.words == (
        "clocks of two ranks agree within 4.1 µs; 0 of 16 splits of a wait lie within the clocks' "
        "uncertainty"
    )
    assert found.notes == ["rank 0: it was stepped", "rank 1: it was stepped"]
    assert clocks(with_clocks(run, 0, 0), load(run)).words == "all ranks read one clock"


def test_one_rank_has_no_other_to_agree_with(tmp_path):
    run = write_run(tmp_path, small_spec(plan=Static()))
    tables = load(with_clocks(run, 4_600))
    assert clocks(run, tables).words == "the clock of rank 0 is known within 4.6 µs"
    assert clocks(with_clocks(run, 0), tables).words == "all ranks read one clock"
    clock = {"uncertainty_ns": 1, "notes": [], "host": {"uncertainty_ns": 2}}
    entry = {"rank": 0, "clock": clock | {"profiler": {"uncertainty_ns": 3}}}
    (run.path / "environment.json").write_bytes(orjson.dumps({"ranks": [entry]}))
    assert words_of_traces(run) is None


def test_nothing_is_said_of_splits_where_there_are_none(run):
    tables = load(with_clocks(run, 1_500, 2_600))
    none = replace(tables, events=tables.events[tables.events["channel"] == ""])
    assert clocks(run, none).words == "clocks of two ranks agree within 4.1 µs"


def test_a_run_without_an_environment_says_nothing_and_moves_nothing(run):
    (run.path / "environment.json").unlink()
    assert clocks(run, load(run)) is None
    assert words_of_traces(run) is None
    assert shifts_of(run) == {}


def test_a_wait_that_ends_before_what_it_is_for_tells_on_a_clock(run):
    tables = load(run)
    late = tables.events["rank"] == 1
    tables.events.loc[late, ["start_ns", "end_ns"]] += 50_000  # more than its transfer took
    found = clocks(with_clocks(run, 1_000, 2_000), tables)
    assert found.impossible == 16
    assert "16 waits ended before what they were for" in found.words
    assert clocks(with_clocks(run, 1_000, 20_000), tables).impossible == 0


def test_a_run_that_recorded_no_clocks_says_nothing(run):
    assert clocks(run, load(run)) is None
