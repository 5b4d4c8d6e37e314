"""Bars show the numbers of their tables."""

import pytest

from fapool.analysis import memory, summary
from fapool.analysis.study import study
from fapool.figures import bars
from fapool.figures.render import png, svg
from fapool.figures.style import COLOURS
from tests.synthetic import write_run


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return study(write_run(tmp_path_factory.mktemp("profiles")))


def containers(figure) -> list[list[float]]:
    """Widths of the bars, a list per colour."""
    (axes,) = figure.axes
    return [[bar.get_width() for bar in container] for container in axes.containers]


def names(figure) -> list[str]:
    return [label.get_text() for label in figure.axes[0].get_yticklabels()]


def test_a_bar_is_as_long_as_its_part(found):
    table = summary.by_rank(found.parted)
    figure = bars.breakdown_per_rank(table, title="t")
    *parts, hidden = containers(figure)
    for category, widths in zip(COLOURS, parts, strict=True):
        assert widths == pytest.approx(table[f"{category}_ms"].tolist())
    assert hidden == pytest.approx(table["hidden_ms"].tolist())
    assert names(figure) == ["rank 0 (base)", "rank 1 (base)", "rank 2 (pool)", "rank 3 (pool)"]


def test_a_stack_ends_at_the_wall_time(found):
    table = summary.by_rank(found.parted)
    figure = bars.breakdown_per_rank(table, title="t")
    idle = figure.axes[0].containers[4]
    ends = [bar.get_x() + bar.get_width() for bar in idle]
    assert ends == pytest.approx(table["wall_ms"].tolist())


def test_memory_stacks_its_parts_and_not_the_whole_device(found):
    figure = bars.memory_per_rank(memory.peak(found.tables), title="t")
    by_rank = [sum(widths) for widths in zip(*containers(figure), strict=True)]
    base, pool = 400_000 + 300_000 + 50_000 + 20_000, 300_000 + 50_000 + 20_000
    assert by_rank == pytest.approx([base / 1024] * 2 + [pool / 1024] * 2)
    assert figure.axes[0].get_xlabel().startswith("KiB")


def test_memory_without_readings_of_the_device_is_drawn(found):
    peak = memory.peak(found.tables)
    figure = bars.memory_per_rank(peak[peak["owner"] == "weights"], title="t")
    assert len(names(figure)) == 4


def test_the_same_table_gives_the_same_bytes(found):
    table = summary.by_rank(found.parted)
    one, other = (svg(bars.breakdown_per_rank(table, title="t")) for _ in range(2))
    assert one == other
    assert one.startswith("<svg")
    assert png(bars.breakdown_per_rank(table, title="t")).startswith(b"\x89PNG")
