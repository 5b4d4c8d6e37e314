"""Memory over time: panels on common scales, parts that stack, the peak where it was."""

from itertools import pairwise

import pytest

from fapool.analysis import memory
from fapool.analysis.load import load
from fapool.figures.memory import memory_over_time, memory_parts, unit_of
from fapool.figures.render import svg
from fapool.figures.style import OWNER_COLOURS, OWNER_HATCHES
from tests.synthetic import write_run


@pytest.fixture(scope="module")
def held(tmp_path_factory):
    tables = load(write_run(tmp_path_factory.mktemp("profiles")))
    found = memory.parts_over_time(tables)
    at = found.query("rank == 1 and repeat == 1 and step == 2").index
    found.loc[at, "activations"] = 2_000_000
    return found


def test_every_rank_has_a_panel_and_all_the_same_scales(held):
    figure = memory_over_time(held, title="t")
    assert [panel.get_ylabel() for panel in figure.axes] == [
        "rank 0\n(base)", "rank 1\n(base)", "rank 2\n(pool)", "rank 3\n(pool)",
    ]  # fmt: skip
    assert len({(panel.get_xlim(), panel.get_ylim()) for panel in figure.axes}) == 1


def test_the_outline_is_the_sum_of_the_parts(held):
    figure = memory_over_time(held, title="t")
    outline = figure.axes[2].lines[0]
    own = held[held["rank"] == 2]
    mib = own[["weights", "kv", "activations", "buffers"]].sum(axis=1) / 2**20
    assert outline.get_ydata() == pytest.approx(mib.tolist())
    assert outline.get_xdata() == pytest.approx(own["time_s"].tolist())
    assert memory_parts(own).sum(axis=1).tolist() == pytest.approx((mib * 2**20).tolist())


def test_the_peak_is_marked_with_its_bytes_step_and_time(held):
    panel = memory_over_time(held, title="t").axes[1]
    (words,) = [text.get_text() for text in panel.texts]
    peak = (400_000 + 300_000 + 2_000_000 + 20_000) / 2**20
    at = held.query("rank == 1 and repeat == 1 and step == 2")["time_s"].item()
    assert words == f"peak {peak:.4g} MiB, step 2, {at:.4g} s"
    mark = panel.lines[1]
    assert mark.get_xdata()[0] == pytest.approx(at)
    assert mark.get_ydata()[0] == pytest.approx(peak)


def test_neighbours_in_a_stack_differ_in_hatch():
    assert list(OWNER_HATCHES) == list(OWNER_COLOURS)
    hatches = [OWNER_HATCHES[name] for name in OWNER_COLOURS]
    assert all(a != b for a, b in pairwise(hatches))


def test_the_same_table_gives_the_same_bytes(held):
    one, other = (svg(memory_over_time(held, title="t")) for _ in range(2))
    assert one == other


def test_units_are_those_in_which_a_number_is_short():
    assert [unit_of(n)[1] for n in (3, 5_000, 3 * 2**20, 2**40)] == ["KiB", "KiB", "MiB", "GiB"]
