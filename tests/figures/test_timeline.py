"""A timeline has a row a rank and a bar a span."""

from matplotlib.colors import to_hex

from fapool.analysis.study import study
from fapool.analysis.timeline import one_step
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
