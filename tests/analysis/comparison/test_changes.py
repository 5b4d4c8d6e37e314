"""What changed adds up: parts to the step, in either run and between them."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fapool.analysis.comparison.changes import changes
from fapool.analysis.study import studies
from fapool.analysis.summary import by_phase, by_rank
from fapool.phases import Category, Role
from fapool.spec import Static, Workload
from tests.synthetic import small_spec, write_run

WORK = Workload(batch=2, context=96, output=24)


def spec(**changes):
    return small_spec(**({"workload": WORK, "repeats": 1} | changes))


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("profiles")
    return studies(write_run(folder, spec()), write_run(folder, spec(), slow=1.5))


@pytest.fixture(scope="module")
def repeated(tmp_path_factory):
    folder, work = tmp_path_factory.mktemp("profiles"), Workload(batch=2, context=96, output=4)
    runs = [spec(repeats=3, workload=work)] * 2
    return studies(*(write_run(folder, run, slow=s) for run, s in zip(runs, (1, 1.5), strict=True)))


def test_parts_sum_to_what_the_step_of_each_role_changed(pair):
    found = changes(*pair)
    assert [change.role for change in found] == [Role.BASE, Role.POOL]
    for change in found:
        ranks = [by_rank(study.parted) for study in pair]
        walls = [table.loc[table["role"] == change.role, "wall_ms"].mean() for table in ranks]
        expected = walls[1] - walls[0]
        assert change.step["change_ms"] == pytest.approx(expected)
        assert change.parts["change_ms"].sum() == pytest.approx(expected)


def test_a_part_is_the_mean_over_the_ranks_of_its_role(pair):
    base = changes(*pair)[0].parts.set_index(["category", "phase"])
    shares = by_phase(pair[1].parted).query("rank < 2 and phase == 'ffn'")
    assert base.loc[(Category.COMPUTE, "ffn"), "b_ms"] == pytest.approx(shares["ms"].mean())


def test_the_largest_change_comes_first_and_what_stayed_is_not_significant(repeated):
    parts = changes(*repeated)[0].parts
    assert (np.diff(parts["change_ms"].abs()) <= 1e-12).all()
    same = parts.set_index(["category", "phase"]).loc[(Category.COMMUNICATION, "send_query")]
    assert same["p"] == 1
    assert (parts.iloc[0][["low_ms", "p"]] > [0, -1]).all()
    assert parts.iloc[0]["p"] < 0.01


def test_blocks_of_single_runs_have_intervals_but_no_p(pair):
    for change in changes(*pair):
        assert change.within
        assert change.parts["p"].isna().all()
        assert np.isnan(change.step["p"])
        assert change.step["low_ms"] < change.step["change_ms"] < change.step["high_ms"]


def test_steps_of_the_same_work_are_compared_in_pairs(pair, tmp_path):
    assert changes(*pair)[0].units == "pairs of blocks of 3 steps"
    others = [write_run(tmp_path, spec(repeats=n)) for n in (3, 3)]
    assert changes(*studies(*others))[0].units == "repeat"
    longer = spec(workload=Workload(batch=2, context=96, output=30))
    unlike = studies(write_run(tmp_path, spec()), write_run(tmp_path, longer))
    assert changes(*unlike)[0].units == "block of 3 steps"


def test_a_phase_that_only_one_run_has_counts_whole(tmp_path):
    found = studies(write_run(tmp_path, spec()), write_run(tmp_path, spec(plan=Static(tp=2))))
    (base,) = changes(*found)  # the pool has nothing to stand against
    parts = base.parts.set_index(["category", "phase"])
    assert parts.loc[(Category.COMPUTE, "attend"), "a_ms"] == 0
    assert parts.loc[(Category.COMPUTE, "merge"), "b_ms"] == 0


def test_sampled_steps_stand_for_their_run(tmp_path):
    work = Workload(batch=2, context=96, output=41)
    runs = [write_run(tmp_path, spec(workload=work), sample_every=n) for n in (1, 4)]
    found = changes(*studies(*runs))
    idle = found[0].parts.set_index("category").loc[Category.IDLE]
    assert idle["change_ms"] == pytest.approx(0.09)  # what recording takes in the simulation
    assert found[0].units == "block of 3 steps against block of 2 steps"


def test_prefill_is_compared_where_there_is_no_decode(tmp_path):
    alone = spec(workload=Workload(batch=2, context=96, output=1))
    runs = write_run(tmp_path, alone), write_run(tmp_path, alone, slow=2)
    assert {change.kind for change in changes(*studies(*runs))} == {"prefill"}


@settings(max_examples=5, suppress_health_check=list(HealthCheck))
@given(slow=st.floats(0.5, 3), repeats=st.integers(1, 4), tp=st.sampled_from([1, 2, 4]))
def test_whatever_runs_stand_side_by_side_their_parts_add_up(tmp_path_factory, slow, repeats, tp):
    folder = tmp_path_factory.mktemp("any")
    a = write_run(folder, small_spec())
    b = write_run(folder, small_spec(plan=Static(tp=tp), repeats=repeats), slow=slow)
    for change in changes(*studies(a, b)):  # asserts it as it is made
        assert change.parts["b_ms"].sum() == pytest.approx(change.step["b_ms"])
