"""What a run's tables must hold before anything is computed from them."""

from pathlib import Path

import pandas as pd
import pytest

from fapool.analysis.load import load
from fapool.errors import StoreError
from fapool.store import Run
from tests.synthetic import write_run

GRAPHS = Path(__file__).parents[1] / "data/h100-graphs-fapool-1-1"


class Edited:
    """A run whose tables were changed after it was written."""

    def __init__(self, run, **tables):
        self.name, self.spec, self.status = run.name, run.spec, run.status
        self._run, self._tables = run, tables

    def table(self, name: str) -> pd.DataFrame:
        found = self._run.table(name)
        return self._tables[name](found) if name in self._tables else found


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path)


def test_a_whole_run_loads_with_all_of_its_rows(run):
    tables = load(run)
    assert len(tables.steps) == 4 * 4 * 2  # ranks, steps, repeats
    assert len(tables.requests) == 4
    assert tables.spec == run.spec


def test_a_span_that_ends_before_it_starts_is_refused(run):
    def turned(events):
        events.loc[7, "end_ns"] = events.loc[7, "start_ns"] - 1
        return events

    with pytest.raises(StoreError, match="events hold a row that ends before it starts: repeat 0"):
        load(Edited(run, events=turned))


@pytest.mark.parametrize("shift", [-1, 1])
def test_a_gap_or_overlap_between_steps_is_refused(run, shift):
    def moved(steps):
        third = (steps["repeat"] == 1) & (steps["rank"] == 2) & (steps["step"] == 3)
        steps.loc[third, "start_ns"] += shift
        return steps

    with pytest.raises(StoreError, match="repeat 1, rank 2, step 3"):
        load(Edited(run, steps=moved))


def test_a_step_that_came_twice_is_refused(run):
    with pytest.raises(StoreError, match="does not begin where the last ended"):
        load(Edited(run, steps=lambda steps: pd.concat([steps, steps.iloc[:1]])))


def test_spans_of_a_rank_without_steps_are_refused(run):
    with pytest.raises(StoreError, match="rank that has no steps"):
        load(Edited(run, steps=lambda steps: steps[steps["rank"] != 3]))


def test_a_run_without_steps_is_refused(run):
    with pytest.raises(StoreError, match="no steps"):
        load(Edited(run, steps=lambda steps: steps.iloc[:0]))


def test_tokens_of_requests_that_are_not_those_of_their_step_are_refused(run):
    def fewer(kv):
        kv.loc[3, "tokens"] -= 1
        return kv

    with pytest.raises(
        StoreError, match="tokens in kv are not those of their step: repeat 1, rank 2"
    ):
        load(Edited(run, kv=fewer))


def test_a_run_of_before_there_were_these_tables_loads_without(run):
    for table in ("kv", "energy"):
        (run.path / f"{table}.parquet").unlink()
    tables = load(run)
    assert tables.kv.empty
    assert tables.energy.empty


def test_a_run_of_graphs_on_gpus_loads_whole():
    run = Run(GRAPHS)
    steps = load(run).steps
    assert run.correctness["passed"]
    assert len(steps) == run.spec.plan.world * run.spec.workload.output  # one of them the prefill
    assert (steps["kind"] == "prefill").sum() == run.spec.plan.world
    # the prefill, and of the decode steps every second one
    recorded = steps.loc[steps["method"] != "none", "step"]
    assert sorted(recorded.unique()) == [0, *range(1, 40, 2)]
