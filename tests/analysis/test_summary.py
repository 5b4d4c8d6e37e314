"""Means per step, and rows that add up as they are printed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fapool.analysis.breakdown import ORDER, PARTS, breakdown
from fapool.analysis.load import load
from fapool.analysis.summary import by_layer, by_phase, by_rank, in_print, rounded
from tests.synthetic import write_run


@pytest.fixture(scope="module")
def parted(tmp_path_factory):
    return breakdown(load(write_run(tmp_path_factory.mktemp("profiles"))))


def test_a_rank_has_the_mean_of_its_steps(parted):
    row = by_rank(parted).set_index("rank").loc[2]
    steps = parted.steps.query("rank == 2 and kind == 'decode'")
    assert row["steps"] == 6
    assert row["idle_ms"] == pytest.approx(0.010)
    assert row["wall_ms"] == pytest.approx(steps["wall_ns"].mean() / 1e6)


def test_phases_and_layers_sum_to_what_is_not_idle(parted):
    ranks = by_rank(parted).set_index("rank")
    busy = ranks["wall_ms"] - ranks["idle_ms"]
    for table in (by_phase(parted), by_layer(parted)):
        assert table.groupby("rank")["ms"].sum().to_list() == pytest.approx(busy.to_list())


@pytest.mark.parametrize("key", ["phase", "layer"])
def test_phases_and_layers_in_print_sum_to_the_categories_in_print(parted, key):
    found = in_print(parted, "decode", key).groupby(level="category").sum()
    for row in by_rank(parted).to_dict("records"):
        parts = [row[part.replace("_ns", "_ms")] for part in PARTS]
        shown, _ = rounded(parts, row["wall_ms"])
        for category, ms in zip(ORDER[:-1], shown, strict=False):
            own = found[row["rank"]].get(category, 0.0)
            assert round(1000 * own) == round(1000 * ms)


def test_phases_in_print_stand_the_longest_first_and_layers_in_order(parted):
    phases = in_print(parted, "decode", "phase")
    assert phases.index[:2].tolist() == [("compute", "attend_partial"), ("compute", "ffn")]
    layers = in_print(parted, "decode", "layer").loc["compute"]
    assert layers.index.tolist() == [-1, 0, 1]


def test_steps_of_every_kind_are_taken_when_none_is_named(parted):
    assert by_rank(parted, None)["steps"].tolist() == [8, 8, 8, 8]
    assert by_rank(parted, "prefill")["steps"].tolist() == [2, 2, 2, 2]


@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=5), st.integers(1, 10_000))
def test_rounded_parts_sum_to_the_rounded_whole(parts_ns, steps):
    parts = [part / steps / 1e6 for part in parts_ns]
    whole = sum(parts_ns) / steps / 1e6
    shown, total = rounded(parts, whole)
    assert round(1000 * sum(shown)) == round(1000 * total)
    assert total == pytest.approx(whole, abs=0.0005001)
    assert all(abs(a - b) <= 0.001001 for a, b in zip(shown, parts, strict=True))


def test_thirds_are_rounded_to_a_whole():
    assert rounded([1 / 3, 1 / 3, 1 / 3], 1.0, 2) == ([0.34, 0.33, 0.33], 1.0)
