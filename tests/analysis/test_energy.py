"""How far the energy of a run's steps may be off, from where its readings lie."""

from dataclasses import replace
from pathlib import Path

import pytest

from fapool.analysis.energy import joules, may_be_off
from fapool.analysis.load import load
from fapool.analysis.statistics.doubts import energy_of_little
from fapool.store import Run

DATA = Path(__file__).parent.parent / "data" / "h100-graphs-fapool-1-1"
SECOND = 1_000_000_000


@pytest.fixture
def tables():
    """A measured run whose energy is read in the very moments of its steps, all of 10 s a rank."""
    found = load(Run(DATA))
    steps = found.steps.groupby(["repeat", "rank"], as_index=False).first()
    start = int(steps["start_ns"].min())
    steps = steps.assign(start_ns=start, end_ns=start + 10 * SECOND)
    energy = found.energy.assign(begin_ns=start, end_ns=start + 10 * SECOND)
    return replace(found, steps=steps, energy=energy)


def test_a_long_pass_is_off_by_a_tick_of_the_counter(tables):
    assert may_be_off(tables) == pytest.approx(0.01)
    assert energy_of_little(may_be_off(tables)) == []


def test_what_is_read_beside_the_steps_is_not_of_them(tables):
    energy = tables.energy.copy()
    energy.loc[energy["rank"] == 1, "begin_ns"] -= 2 * SECOND
    off = may_be_off(replace(tables, energy=energy))
    assert off == pytest.approx(0.21)
    (said,) = energy_of_little(off)
    assert said.startswith("J per token may be off by 21%")


def test_where_a_rank_read_none_there_is_nothing_to_be_off(tables):
    partly = replace(tables, energy=tables.energy[tables.energy["rank"] == 0])
    assert joules(partly) == {}
    assert may_be_off(partly) is None
    assert energy_of_little(None) == []
