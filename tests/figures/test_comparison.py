"""Comparisons show every run, also those that have nothing to show."""

import numpy as np
import pytest

from fapool.analysis import metrics
from fapool.analysis.comparison import table
from fapool.analysis.study import studies
from fapool.figures import comparison
from fapool.figures.render import svg
from fapool.spec import Static, Workload
from tests.synthetic import small_spec, write_run


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("profiles")
    specs = small_spec(repeats=3), small_spec(repeats=3, plan=Static(tp=4))
    return studies(*(write_run(folder, spec) for spec in specs))


def test_a_panel_a_metric_and_a_bar_a_run(found):
    spreads = table.spreads(found)
    figure = comparison.comparison(spreads, title="t")
    assert len(figure.axes) == len(comparison.PANELS)
    for axes, metric in zip(figure.axes, comparison.PANELS, strict=True):
        widths = sorted(patch.get_width() for patch in axes.patches)
        expected = spreads.loc[spreads["metric"] == metric, "value"]
        assert widths == pytest.approx(sorted(expected))


def test_an_axis_says_of_what_its_lines_speak(found, tmp_path):
    one = studies(
        write_run(tmp_path, small_spec(workload=Workload(batch=2, context=96, output=12)))
    )
    labels = {
        name: [axes.get_xlabel() for axes in comparison.comparison(rows, title="t").axes]
        for name, rows in (("repeats", table.spreads(found)), ("one", table.spreads(one)))
    }
    assert labels["repeats"][:2] == [
        "ms (line: 95 %, over repeats)",
        "tokens/s (line: 95 %, over repeats)",
    ]
    assert labels["one"][:2] == ["ms (line: 95 %, within a run)", "tokens/s"]


def test_tpot_has_a_row_a_run(found):
    requests = {study.label: metrics.per_request(study.tables) for study in found}
    figure = comparison.tpot_distribution(requests, title="t")
    rows = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert rows == ["FAPool(2,2)", "Static(4,1)"]


def test_runs_of_one_token_are_drawn_as_having_none(tmp_path):
    spec = small_spec(workload=Workload(batch=2, context=96, output=1))
    found = studies(write_run(tmp_path, spec))
    spreads = table.spreads(found)
    assert np.isnan(spreads.set_index("metric").loc["tpot_mean", "value"])
    requests = {study.label: metrics.per_request(study.tables) for study in found}
    assert svg(comparison.comparison(spreads, title="t"))
    assert svg(comparison.tpot_distribution(requests, title="t"))


def test_no_line_or_bar_strikes_through_a_value(found):
    figure = comparison.comparison(table.spreads(found), title="t")
    figure.canvas.draw()
    for axes in figure.axes:
        drawn = [patch.get_window_extent() for patch in axes.patches]
        for text in axes.texts:
            box = text.get_window_extent()
            assert box.x1 <= axes.get_window_extent().x1
            assert not any(box.overlaps(other) for other in drawn)
        lines = axes.collections[0].get_segments()
        ends = {row: high for (_, row), (high, _) in lines}
        assert all(text.xy[0] >= ends[text.xy[1]] for text in axes.texts)


def test_a_run_of_one_repeat_has_no_line_where_it_has_no_interval(tmp_path):
    spec = small_spec(repeats=1, workload=Workload(batch=2, context=96, output=24))
    spreads = table.spreads(studies(write_run(tmp_path, spec)))
    figure = comparison.comparison(spreads, title="t")
    lines = [np.array(axes.collections[0].get_segments()) for axes in figure.axes]
    assert [bool(line.size and np.isfinite(line).all()) for line in lines] == [True, False, False]


def test_ranks_without_a_gpu_are_not_called_gpus(found):
    figure = comparison.comparison(table.spreads(found), title="t", device="rank")
    assert figure.axes[2].get_title(loc="left") == "TPS per charged rank"
    assert figure.axes[2].get_xlabel().startswith("tokens/s/rank")
