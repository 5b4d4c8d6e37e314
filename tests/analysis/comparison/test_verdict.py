"""A verdict holds only where every condition of the protocol does, and says which does not."""

import numpy as np
import pytest
from scipy import stats

from fapool.analysis.comparison.verdict import verdicts
from fapool.analysis.load import load
from fapool.analysis.metrics import per_request
from fapool.errors import StoreError
from fapool.protocol import Protocol
from fapool.spec import FAPool, Static, Workload
from tests.synthetic import small_spec, write_run

SMALL = Protocol(categories={"short": (16, 32), "long": (32, 64)}, sequences=4, within_limit=0.2)
PLANS = (Static(tp=4), FAPool(base=2, pool=2, threshold=64))


def runs_of(folder, plan, *, slow=1.0, protocol=SMALL, jitter=0.001, batch=4, **changes):
    """Trials that differ a little, as a simulation that repeats itself never would."""
    spec = small_spec(
        plan=plan, repeats=1, workload=Workload(batch=batch, context=9, output=4), **changes
    )
    return [
        write_run(folder, run, slow=slow * (1 + jitter * run.workload.seed))
        for run in protocol.specs(spec)
    ]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("profiles")
    return [*runs_of(folder, PLANS[0], slow=2), *runs_of(folder, PLANS[1])]


def test_a_clear_difference_holds_in_every_category(runs):
    found = verdicts(runs, SMALL)
    assert [(one.category, one.a.plan, one.b.plan) for one in found] == [
        ("short", "Static(4,1)", "FAPool(2,2)"),
        ("long", "Static(4,1)", "FAPool(2,2)"),
    ]
    for one in found:
        assert one.holds, one.conditions
        assert one.contrast.high < 0 < one.ratio - 1


def test_the_unit_is_the_trial_and_trials_of_equal_lengths_are_paired(runs):
    (one, _) = verdicts(runs, SMALL)
    own = [run for run in runs if run.spec.workload.shortest == 16]
    means = np.array([per_request(load(run))["tpot_ms"].mean() for run in own])
    expected = stats.ttest_rel(means[3:], means[:3])
    assert one.a.means.tolist() == means[:3].tolist()
    assert one.contrast.t_p == pytest.approx(expected.pvalue)
    other = verdicts(runs, SMALL)[1]
    assert sorted(x.contrast.p for x in (one, other))[0] == pytest.approx(
        2 * min(one.contrast.t_p, other.contrast.t_p)
    )  # Holm over two categories


def test_the_order_of_the_runs_changes_nothing_but_the_measure(runs):
    turned = verdicts(runs[::-1], SMALL)
    assert [one.a.plan for one in turned] == ["FAPool(2,2)"] * 2
    assert turned[0].ratio == pytest.approx(1 / verdicts(runs, SMALL)[0].ratio)


def failing(found) -> set[str]:
    return {condition.name for condition in found.conditions if not condition.holds}


def test_fewer_sequences_and_trials_are_told_with_what_they_cost(tmp_path, runs):
    few = Protocol(categories=SMALL.categories, sequences=4, trials=2, within_limit=0.2)
    some = [*runs_of(tmp_path, PLANS[0], protocol=few), *runs_of(tmp_path, PLANS[1], protocol=few)]
    asked = Protocol(categories=SMALL.categories, sequences=100, within_limit=0.2)
    found = verdicts(some, asked)[0]
    assert failing(found) == {"sequences", "trials", "significance"}
    words = {condition.name: condition.words for condition in found.conditions}
    assert words["sequences"].startswith("4 of 100: ")
    assert "5.0 times" in words["sequences"]
    assert words["trials"].startswith("2 of 3; with fewer than 3 nothing")


def test_plans_that_print_alike_are_two_sides_named_by_what_differs(tmp_path):
    plans = [FAPool(base=2, pool=2, threshold=limit) for limit in (64, 96)]
    assert str(plans[0]) == str(plans[1])
    some = [
        run
        for plan, slow in zip(plans, (2, 1), strict=True)
        for run in runs_of(tmp_path, plan, slow=slow)
    ]
    found = verdicts(some, SMALL)
    assert [(one.a.plan, one.b.plan) for one in found] == [
        ("FAPool(2,2), threshold 64", "FAPool(2,2), threshold 96")
    ] * 2
    short = [run for run in some if run.spec.workload.shortest == 16]  # three trials a plan
    means = [per_request(load(run))["tpot_ms"].mean() for run in short]
    assert found[0].ratio == pytest.approx(sum(means[:3]) / sum(means[3:]))


def test_trials_that_differ_fail_their_limit(tmp_path):
    wild = [*runs_of(tmp_path, PLANS[0], slow=2, jitter=0.3), *runs_of(tmp_path, PLANS[1])]
    assert "across trials" in failing(verdicts(wild, SMALL)[0])


def test_sequences_that_differ_fail_theirs(tmp_path):
    # two at a time: the second pair comes later, when steps of the simulation are slower
    pairs = [run for plan in PLANS for run in runs_of(tmp_path, plan, slow=2, batch=2)]
    strict = Protocol(categories=SMALL.categories, sequences=4, within_limit=0.01)
    (found, _) = verdicts(pairs, strict)
    expected = max(
        stats.variation(per_request(load(run))["tpot_ms"], ddof=1)
        for run in pairs
        if run.spec.workload.shortest == 16
    )
    words = {condition.name: condition.words for condition in found.conditions}
    assert "within" in failing(found)
    assert words["within"] == f"sequences vary by {expected:.2%}, asked < 1%"


def test_no_difference_is_not_significant(tmp_path):
    rng = np.random.default_rng(0)
    runs = []
    for plan in (Static(tp=4), Static(tp=2)):
        spec = small_spec(plan=plan, repeats=1, workload=Workload(batch=4, context=9, output=4))
        scale = 1.0 if plan.tp == 4 else 1.0325  # about what fewer ranks save in the simulation
        runs += [
            write_run(tmp_path, run, slow=scale * rng.normal(1, 0.02)) for run in SMALL.specs(spec)
        ]
    assert all("significance" in failing(found) for found in verdicts(runs, SMALL))


def test_runs_that_do_not_belong_are_refused_by_name(tmp_path, runs):
    stranger = write_run(tmp_path)
    with pytest.raises(StoreError, match=f"{stranger.name} is no run of the protocol"):
        verdicts([*runs, stranger], SMALL)
    with pytest.raises(StoreError, match=r"trial 1 of short is there"):
        verdicts([runs[0], runs[0]], SMALL)
    with pytest.raises(StoreError, match="no two plans share a category"):
        verdicts(runs[:3], SMALL)
    unlike = runs_of(tmp_path, PLANS[1], seed=7)[0]
    with pytest.raises(StoreError, match=r"differs from the first run in seed"):
        verdicts([runs[0], unlike], SMALL)
    bad = write_run(tmp_path, runs[0].spec, passed=False)
    with pytest.raises(StoreError, match="failed its check"):
        verdicts([bad], SMALL)
