"""The matrix of waits: a row a waiter, a column a rank that is waited for, a number in each."""

import pytest

from fapool.analysis.steps.causes import causes
from fapool.analysis.study import study
from fapool.figures.render import svg
from fapool.figures.waits import waited, without_rows
from fapool.spec import Static
from tests.synthetic import small_spec, write_run


@pytest.fixture(scope="module")
def why(tmp_path_factory):
    return causes(study(write_run(tmp_path_factory.mktemp("profiles"))))


def test_every_wait_stands_in_its_cell_as_a_number(why):
    (figure,) = waited(why, "FAPool(2,2)")
    (axes,) = figure.axes
    cells = {
        (round(text.get_position()[1] - 0.5), round(text.get_position()[0] - 0.5)): text.get_text()
        for text in axes.texts
        if text.get_text()
    }
    sums = why.stragglers.groupby(["rank", "awaited"])["ms"].sum()
    assert set(cells) == set(sums.index)
    for place, text in cells.items():
        assert float(text) == pytest.approx(sums[place], rel=1e-3)
    assert [label.get_text() for label in axes.get_yticklabels()][2] == "rank 2 (pool)"
    assert "<image" not in svg(figure)  # a report holds nothing that it would have to load


def test_one_rank_has_no_matrix(tmp_path):
    assert (
        waited(causes(study(write_run(tmp_path, small_spec(plan=Static())))), "Static(1,1)") == []
    )


def test_the_table_says_what_each_phase_saves(why):
    rows = {row["phase"]: row for row in without_rows(why)}
    assert rows["attend_partial"] == {
        "phase": "attend_partial",
        "path": "0.844",
        "ms": "1.399",
        "saved": "37.6%",
    }
    assert "append_kv" not in rows  # neither on the path, nor missed without it
