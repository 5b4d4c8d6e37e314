"""A timeline has a row a rank and a bar a span."""

import pandas as pd
import pytest
from matplotlib.colors import to_hex

from fapool.analysis.steps.timeline import critical_in, one_step
from fapool.analysis.study import study
from fapool.figures.style import COLOURS
from fapool.figures.timeline import step_timeline
from tests.synthetic import write_run


def test_every_span_is_a_bar_in_the_colour_of_its_category(tmp_path):
    spans = one_step(study(write_run(tmp_path)).tables, step=1)
    figure = step_timeline(spans, title="t")
    drawn = sorted(
        (
            round(bar.get_y() + bar.get_height() / 2),
            round(bar.get_x(), 3),
            to_hex(bar.get_facecolor()),
        )
        for container in figure.axes[0].containers
        for bar in container
    )
    expected = sorted(
        (span.rank, round(span.start_us, 3), COLOURS[span.category]) for span in spans.itertuples()
    )
    assert drawn == expected


def test_the_legend_lists_the_phases_of_each_category(tmp_path):
    spans = one_step(study(write_run(tmp_path)).tables, step=1)
    (legend,) = step_timeline(spans, title="t").legends
    texts = [text.get_text() for text in legend.get_texts()]
    assert "management: plan_step" in texts
    assert any(text.startswith("compute: ") and "attend_partial" in text for text in texts)


def test_a_step_without_spans_is_an_empty_timeline(tmp_path):
    spans = one_step(study(write_run(tmp_path)).tables, step=1)
    assert not step_timeline(spans.iloc[:0], title="t").axes[0].containers[0].patches


def test_of_spans_on_one_place_only_the_one_on_top_is_named():
    spans = [
        ("base", 0, "communication", "wait_partials", 0, 80.0, 400.0),
        ("base", 0, "synchronization", "wait_partials", 0, 0.0, 300.0),
        ("base", 0, "communication", "wait_partials", 0, 300.0, 400.0),
        ("base", 0, "compute", "ffn", 0, 100.0, 290.0),
        ("base", 0, "compute", "ffn", 1, 500.0, 900.0),
        ("pool", 1, "compute", "attend_partial", 0, 100.0, 400.0),
    ]
    columns = ["role", "rank", "category", "phase", "layer", "start_us", "end_us"]
    (axes,) = step_timeline(pd.DataFrame(spans, columns=columns), title="t").axes
    named = [(text.get_text(), *text.get_position()) for text in axes.texts]
    alone = ("wait_partials", 345.0, 0)  # past the end of what is computed meanwhile
    assert named == [("ffn", 195.0, 0), ("ffn", 700.0, 0), ("attend_partial", 250.0, 1), alone]


def test_a_name_stands_where_no_other_bar_lies_on_its_span():
    spans = [
        ("pool", 0, "synchronization", "device_sync", 0, 0.0, 600.0),
        ("pool", 0, "compute", "attend_partial", 0, 350.0, 450.0),
        ("pool", 0, "compute", "ffn", 0, 950.0, 1000.0),
    ]
    columns = ["role", "rank", "category", "phase", "layer", "start_us", "end_us"]
    (axes,) = step_timeline(pd.DataFrame(spans, columns=columns), title="t").axes
    named = {text.get_text(): text.get_position() for text in axes.texts}
    assert named["device_sync"] == (175.0, 0)
    assert "attend_partial" not in named


def test_a_wait_for_others_is_named_before_one_for_its_own_device():
    spans = [
        ("pool", 0, "synchronization", "device_sync", 0, 0.0, 1000.0),
        ("pool", 0, "synchronization", "wait_query", 0, 100.0, 900.0),
    ]
    columns = ["role", "rank", "category", "phase", "layer", "start_us", "end_us"]
    (axes,) = step_timeline(pd.DataFrame(spans, columns=columns), title="t").axes
    assert [text.get_text() for text in axes.texts] == ["wait_query"]


def test_the_critical_path_is_a_strip_beneath_the_ranks_that_it_is_on(tmp_path):
    tables = study(write_run(tmp_path)).tables
    spans, path = one_step(tables, step=1), critical_in(tables, step=1)
    figure = step_timeline(spans, title="t", critical=path)
    strip = figure.axes[0].containers[-1]
    drawn = [(bar.get_y() // 1, bar.get_x(), bar.get_width()) for bar in strip]
    assert drawn == [(p.rank, p.start_us, p.end_us - p.start_us) for p in path.itertuples()]
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts[-1] == "critical path"
    chosen = tables.steps.query("repeat == 0 and step == 1")
    wall = chosen["end_ns"].max() - chosen["start_ns"].max()
    assert (path["end_us"] - path["start_us"]).sum() == pytest.approx(wall / 1e3 - 10)  # the gap
