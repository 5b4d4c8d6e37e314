"""Runs side by side, and runs that may not stand there."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from fapool.analysis.comparison.table import compare, contrasts, differences, spreads
from fapool.analysis.metrics import DEFINITIONS, metrics
from fapool.analysis.study import studies
from fapool.errors import StoreError
from fapool.spec import Capture, FAPool, Static, Workload
from fapool.store import Store
from tests.synthetic import small_spec, write_run


def test_a_row_a_metric_a_column_a_run_and_ratios_to_the_first(tmp_path):
    first = write_run(tmp_path)
    second = write_run(tmp_path, small_spec(plan=Static(tp=4)))
    third = write_run(tmp_path, small_spec(plan=Static(tp=2)), slow=2)
    found = compare(first, second, third)
    assert list(found.index) == list(DEFINITIONS)
    assert list(found) == [
        "unit", "FAPool(2,2)", "Static(4,1)", "Static(2,1)",
        "Static(4,1) / first", "Static(2,1) / first",
    ]  # fmt: skip
    tpot = found.loc["tpot_mean"]
    assert tpot["Static(2,1) / first"] == tpot["Static(2,1)"] / tpot["FAPool(2,2)"] > 1


def test_runs_of_one_plan_are_told_apart_by_name(tmp_path):
    first, second = write_run(tmp_path), write_run(tmp_path, slow=2)
    assert {first.name, second.name} < set(compare(first, second))


def test_a_run_that_was_not_correct_has_no_performance(tmp_path):
    good, bad = write_run(tmp_path), write_run(tmp_path, passed=False)
    with pytest.raises(StoreError, match=f"{bad.name} failed its check"):
        compare(good, bad)


def test_a_run_that_failed_has_no_performance(tmp_path):
    folder = Store(tmp_path).create(small_spec())
    failed = folder.fail(rank=2, reason="was killed")
    with pytest.raises(StoreError, match="is failed: was killed"):
        compare(write_run(tmp_path), failed)


def test_a_run_under_way_has_no_performance(tmp_path):
    Store(tmp_path).create(small_spec())
    with pytest.raises(StoreError, match="is started"):
        compare(*Store(tmp_path).runs())


def test_nothing_and_twice_the_same_are_refused(tmp_path):
    run = write_run(tmp_path)
    with pytest.raises(StoreError, match="nothing to compare"):
        compare()
    with pytest.raises(StoreError, match="with itself"):
        compare(run, run)


def test_intervals_hold_their_values_and_are_missing_where_there_are_too_few_repeats(tmp_path):
    longer = small_spec(workload=Workload(batch=2, context=96, output=24))
    runs = write_run(tmp_path, small_spec(repeats=3)), write_run(tmp_path, longer)
    found = spreads(studies(*runs)).set_index(["label", "metric"])
    assert len(found) == 6
    known = found.dropna()
    assert set(known["units"]) == {"repeat", "block of 3 decode steps"}
    assert set(found.index.difference(known.index)) == {
        (runs[1].name, "tps"), (runs[1].name, "tps_per_charged_gpu")
    }  # fmt: skip
    assert (known["low"] <= known["value"] * (1 + 1e-12)).all()
    assert (known["value"] <= known["high"] * (1 + 1e-12)).all()


def test_repeats_stand_against_repeats(tmp_path):
    a, b = (write_run(tmp_path, small_spec(repeats=3), slow=slow) for slow in (1, 2))
    found = contrasts(*studies(a, b))
    assert set(found["units"]) == {"repeat"}
    assert found["change"].to_numpy() == pytest.approx((found["b"] - found["a"]).to_numpy())
    assert found.loc["tpot_mean", "p"] < 0.01 < found.loc["tpot_mean", "change"]
    assert {"tps", "utilisation_pool"} <= set(found.index)


def test_p_is_of_the_repeats_own_values_and_the_interval_stands_about_the_change(tmp_path):
    spec = small_spec(repeats=4, workload=Workload(batch=2, context=96, output=9))
    runs = studies(write_run(tmp_path, spec), write_run(tmp_path, spec, slow=1.01))
    rng = np.random.default_rng(1)
    sides = [shortened(run, rng.integers(0, 90_000, 4)) for run in runs]
    rows = [of_rank_0(side) for side in sides]
    ms = [(own["end_ns"] - own["start_ns"]) / 1e6 for own in rows]
    medians = [took.groupby(own["repeat"]).median() for took, own in zip(ms, rows, strict=True)]
    expected = stats.ttest_ind(medians[1], medians[0], equal_var=False)
    found = contrasts(*sides).loc["decode_step"]
    assert found["p"] == pytest.approx(expected.pvalue, rel=1e-6)
    assert found["change"] == pytest.approx(ms[1].median() - ms[0].median())
    low, high = expected.confidence_interval(0.95)
    assert found["high"] - found["low"] == pytest.approx(high - low, rel=1e-6)
    assert found["high"] + found["low"] == pytest.approx(2 * found["change"])


def shortened(side, ns):
    """Decode steps of rank 0 that end `ns` earlier, one number a repeat."""
    steps = side.tables.steps.copy()
    own = (steps["rank"] == 0) & (steps["kind"] == "decode")
    steps.loc[own, "end_ns"] -= ns[steps.loc[own, "repeat"]]
    tables = replace(side.tables, steps=steps)
    return replace(side, tables=tables, metrics=metrics(tables, side.parted))


def of_rank_0(side):
    steps = side.tables.steps
    return steps[(steps["rank"] == 0) & (steps["kind"] == "decode")]


def test_steps_of_the_same_work_are_paired_and_others_are_not(tmp_path):
    spec = small_spec(repeats=1, workload=Workload(batch=2, context=96, output=24))
    a, b = (write_run(tmp_path, spec, slow=slow) for slow in (1, 1.1))
    other = write_run(tmp_path, spec.replace(workload=Workload(batch=2, context=96, output=20)))
    paired, unpaired = contrasts(*studies(a, b)), contrasts(*studies(a, other))
    assert set(paired["units"]) == {"pairs of blocks of 3 decode steps"}
    assert set(unpaired["units"]) == {"block of 3 decode steps"}
    assert paired["change"].to_numpy() == pytest.approx((paired["b"] - paired["a"]).to_numpy())
    assert (paired["low"] > 0).all()  # a tenth slower, whereas later steps are a fifth slower
    assert (unpaired.loc[["tpot_mean", "decode_step"], "low"] < 0).all()


def test_without_three_repeats_on_either_side_no_difference_has_a_p(tmp_path):
    work = Workload(batch=2, context=96, output=24)
    few, enough = (small_spec(repeats=n, workload=work) for n in (2, 3))
    runs = studies(*(write_run(tmp_path, spec, slow=2) for spec in (few, few, enough, enough)))
    for a, b in ((0, 1), (0, 2), (2, 0)):
        found = contrasts(runs[a], runs[b])
        assert len(found) >= 4
        assert found[["p", "hedges_g"]].isna().all(axis=None)
        assert set(found["test"]) == {""}
        assert found[["low", "high"]].notna().all(axis=None)
    assert contrasts(runs[2], runs[3])["p"].notna().all()


def test_differences_name_the_fields_that_differ_and_no_others():
    first = small_spec(name="a", plan=FAPool(base=2, pool=2, threshold=64))
    second = small_spec(
        name="b", plan=Static(tp=4), workload=Workload(batch=2, context=90, output=4)
    )
    assert differences(first, second) == {
        "plan.kind": ["fapool", "static"],
        "plan.base": [2, None],
        "plan.pool": [2, None],
        "plan.base_attends": [False, None],
        "plan.overlap": ["auto", None],
        "plan.kv": ["sharded", None],
        "plan.reduction": ["flat", None],
        "plan.threshold": [64, None],
        "plan.tp": [None, 4],
        "plan.pp": [None, 1],
        "workload.context": [96, 90],
    }
    assert differences(first, first) == {}


def test_spans_and_samples_are_differences_and_what_only_looks_on_is_none():
    first = small_spec(capture=Capture(live_hz=1, profile_steps=2, memory_snapshot=True))
    assert differences(first, small_spec()) == {}
    other = small_spec(capture=Capture(sample_every=1, spans=False, memory=False))
    assert differences(first, other) == {
        "capture.spans": [True, False],
        "capture.memory": [True, False],
        "capture.sample_every": [32, 1],
    }


def test_steps_are_paired_only_where_both_left_the_same_alone(tmp_path):
    spec = small_spec(repeats=1, workload=Workload(batch=2, context=96, output=24))
    runs = [write_run(tmp_path, spec, sample_every=n) for n in (4, 8)]
    found = contrasts(*studies(*runs))
    assert found.loc["decode_step", "units"] == "block of 3 decode steps"
    assert found.loc["tpot_mean", "units"] == "pairs of blocks of 3 decode steps"
    low, high = found.loc["decode_step", ["low", "high"]]
    assert low < 0 < high  # the same steps, but for what sampling adds


def test_numbers_of_gpus_have_no_ratio(tmp_path):
    found = compare(write_run(tmp_path), write_run(tmp_path, small_spec(plan=Static(tp=2))))
    ratios = found["Static(2,1) / first"]
    assert ratios[["gpus", "charged_gpus"]].isna().all()
    assert ratios["tps_per_gpu"] > 0
