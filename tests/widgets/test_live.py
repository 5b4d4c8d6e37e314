"""The live picture: binary frames, colours of the figures, nothing from elsewhere."""

import re
from pathlib import Path

import pytest

import widgets
from fapool.figures.style import COLOURS
from tests.widgets.fake_ranks import sample
from widgets.feed import RANK_FIELDS, Feed
from widgets.live import Live

STATIC = Path(widgets.__file__).parent / "static"


def test_a_frame_is_bytes_so_that_it_travels_unencoded():
    live, feed = Live([("base", "CPU"), ("pool", "CPU")]), Feed()
    feed.add({0: sample(0, 3), 1: sample(1, 3, role="pool")})
    live.show(feed)
    assert isinstance(live.frame, bytes)
    assert live.frame == feed.frame()
    assert live.stage == "running"


def test_the_next_run_starts_from_an_empty_picture():
    live, feed = Live([("base", "CPU")]), Feed()
    feed.add({0: sample(0, 3)})
    live.show(feed)
    live.expect([("base", "CPU"), ("pool", "CPU")])
    assert live.frame == b""
    assert [rank["role"] for rank in live.ranks] == ["base", "pool"]


def test_colours_are_those_of_the_figures():
    assert dict(Live().time_keys) == dict(COLOURS)


def test_an_unknown_keyword_is_refused():
    with pytest.raises(TypeError):
        Live(rank=3)


def test_the_page_reads_as_many_numbers_as_a_rank_has():
    script = (STATIC / "live.js").read_text()
    places = dict(re.findall(r"(FIELDS|MEMORY|CAPACITY|LEASES) = (\d+)", script))
    assert int(places["FIELDS"]) == len(RANK_FIELDS)
    assert int(places["MEMORY"]) == RANK_FIELDS.index("weights")
    assert int(places["CAPACITY"]) == RANK_FIELDS.index("capacity")
    assert int(places["LEASES"]) == RANK_FIELDS.index("leases")


@pytest.mark.parametrize("name", ["live.js", "live.css", "runs.js", "runs.css"])
def test_nothing_is_loaded_from_elsewhere(name):
    text = (STATIC / name).read_text().replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?:|//cdn|@import|\bimport\b|fetch\(|url\(", text)
