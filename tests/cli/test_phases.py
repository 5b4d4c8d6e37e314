"""A breakdown by phase and layer in the terminal adds up, and all of it is written as JSON."""

import io
import re

import orjson
import pytest
from rich.console import Console

from fapool.cli import show
from fapool.errors import SpecError
from fapool.phases import Category
from fapool.spec import FAPool
from tests.synthetic import small_spec, write_run

NUMBER = r"\d+\.\d{3}"
BUSY = [category.value for category in Category][:-1]


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=80, force_terminal=False)


def printed(console: Console) -> str:
    return console.file.getvalue()


def thousandths(row: str) -> list[int]:
    return [round(float(number) * 1000) for number in re.findall(NUMBER, row)]


def section(text: str, title: str) -> str:
    return text.partition(title)[2]


def test_phases_of_a_rank_sum_to_its_categories_above_them(profiles, console):
    show.show(write_run(profiles), console)
    text = section(printed(console), "mean ms per decode step, of")
    above, _, rest = text.partition("the same by phase: mean ms per decode step")
    wholes = [thousandths(row) for row in re.findall(r"^ ?\d \(.*$", above, re.MULTILINE)]
    sums = {category: [0] * 4 for category in BUSY}
    category = ""
    for row in re.findall(rf"^ .*{NUMBER} *$", rest.partition("step borders")[0], re.MULTILINE):
        category = next((name for name in BUSY if row.startswith(f" {name}")), category)
        sums[category] = [a + b for a, b in zip(sums[category], thousandths(row), strict=True)]
    assert [[sums[name][rank] for name in BUSY] for rank in range(4)] == [w[:4] for w in wholes]


def test_layers_of_a_rank_sum_to_its_categories(profiles, console):
    run = write_run(profiles)
    show.show(run, console)
    assert "by layer" not in printed(console)
    show.show(run, console, layers=True)
    text = section(printed(console), "the same by layer: mean ms per decode step")
    rows = re.findall(
        rf"^ .*(?:outside|\d) +{NUMBER}.*$", text.partition("step b")[0], re.MULTILINE
    )
    assert [row[10:18].strip() for row in rows[:3]] == ["outside", "0", "1"]
    for *parts, whole in map(thousandths, rows):
        assert sum(parts) == whole


def test_ranks_that_are_wider_than_the_terminal_come_in_several_tables(profiles, console):
    run = write_run(profiles, small_spec(plan=FAPool(base=2, pool=4, threshold=64)))
    show.show(run, console)
    text = printed(console)
    assert text.count("the same by phase: mean ms per decode step") == 2
    assert "…" not in text


def test_every_step_is_written_by_phase_and_layer_to_the_nanosecond(profiles, console, tmp_path):
    out = tmp_path / "all.json"
    show.show(write_run(profiles), console, out=out)
    found = orjson.loads(out.read_bytes())
    assert found["traced_by_kernels"] is None
    assert len(found["steps"]) == 2 * 4 * 4  # repeats, ranks, steps
    keys = {"repeat", "rank", "step", "category", "phase", "layer", "ns"}
    assert set(found["shares"][0]) == keys
    busy = sum(step["wall_ns"] - step["idle_ns"] for step in found["steps"])
    assert sum(share["ns"] for share in found["shares"]) == busy


def test_a_run_without_spans_has_nothing_to_write(profiles, console, tmp_path):
    with pytest.raises(SpecError, match="no spans were recorded"):
        show.show(write_run(profiles, spans=False), console, out=tmp_path / "all.json")
