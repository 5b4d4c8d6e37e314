"""A bar a phase, sorted; intervals as lines; what may be chance is thin."""

import numpy as np
import pytest
from matplotlib.colors import to_hex

from fapool.analysis.comparison.changes import changes, folded
from fapool.analysis.study import studies
from fapool.figures.changes import OTHERS, THICK, THIN, step_changes
from fapool.figures.style import COLOURS
from fapool.spec import Workload
from tests.synthetic import small_spec, write_run


def changed(folder, repeats):
    spec = small_spec(repeats=repeats, workload=Workload(batch=2, context=96, output=12))
    pair = studies(write_run(folder, spec), write_run(folder, spec, slow=1.5))
    return changes(*pair)[0]


@pytest.fixture(scope="module")
def change(tmp_path_factory):
    return changed(tmp_path_factory.mktemp("profiles"), repeats=3)


@pytest.fixture(scope="module")
def within(tmp_path_factory):
    return changed(tmp_path_factory.mktemp("profiles"), repeats=1)


def test_a_bar_a_phase_and_one_for_the_step(change):
    (axes,) = step_changes(change, title="t").axes
    widths = [patch.get_width() for patch in axes.patches]
    expected = [*folded(change)["change_ms"], change.step["change_ms"]]
    assert widths == pytest.approx(expected)
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names[-1] == "= step"
    assert len(set(names)) == len(names)  # a wait and its transfer are told apart


def test_lines_are_the_intervals(change):
    (axes,) = step_changes(change, title="t").axes
    lines = np.array(axes.collections[-1].get_segments())
    assert lines[-1, :, 0] == pytest.approx([change.step["low_ms"], change.step["high_ms"]])


def test_what_may_be_chance_is_thin_and_the_colour_is_the_categorys(change):
    (axes,) = step_changes(change, title="t").axes
    parts = folded(change)
    assert (parts["p"] < 0.05).any()
    assert not (parts["p"] < 0.05).all()
    for patch, (_, row) in zip(axes.patches, parts.iterrows(), strict=False):
        assert patch.get_height() == pytest.approx(THICK if row["p"] < 0.05 else THIN)
        assert to_hex(patch.get_facecolor()) == COLOURS.get(row["category"], OTHERS)
    colour = to_hex(axes.patches[0].get_facecolor())
    assert colour == COLOURS[parts.loc[0, "category"]]


def test_single_runs_have_no_thick_bar_and_an_axis_that_says_so(within):
    figure = step_changes(within, title="t")
    (axes,) = figure.axes
    assert [patch.get_height() for patch in axes.patches] == pytest.approx(
        [THIN] * len(axes.patches)
    )
    drawn = {to_hex(patch.get_facecolor()) for patch in axes.patches}
    assert {to_hex(patch.get_facecolor()) for patch in figure.legends[0].get_patches()} <= drawn
    assert "within these runs" in axes.get_xlabel()
    assert "p ≥" not in axes.get_xlabel()
