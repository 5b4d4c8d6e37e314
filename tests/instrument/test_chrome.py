"""Columns become the events that rows say, character for character."""

import orjson
import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from fapool.instrument import chrome


def parsed(parts: list[bytes]) -> list[dict]:
    return orjson.loads(b"[" + b"".join(parts).removesuffix(b",\n") + b"]")


NS = st.lists(st.integers(0, 2**62), max_size=20)


@given(NS)
def test_no_nanosecond_is_lost(values):
    texts = chrome.microseconds(values).to_pylist()
    assert [int(text.replace(".", "")) for text in texts] == values
    assert all(len(text.partition(".")[2]) == 3 for text in texts)


@given(st.lists(st.tuples(st.text(max_size=8), st.integers(-5, 2**62)), max_size=20))
def test_events_are_what_their_rows_say(rows):
    names, sizes = [name for name, _ in rows], [size for _, size in rows]
    args = chrome.members({"bytes": chrome.numbers(sizes)}) if rows else "{}"
    found = parsed(chrome.lines(len(rows), {"name": chrome.words(names), "args": args}))
    assert found == [{"name": name, "args": {"bytes": size}} for name, size in rows]


def test_many_rows_are_the_same_as_few(monkeypatch):
    rows = pd.DataFrame({"pid": range(25), "time_ns": range(25)})
    whole = chrome.counters(rows, 0, '"a"', "b", rows["pid"])
    monkeypatch.setattr(chrome, "ROWS", 7)
    parts = chrome.counters(rows, 0, '"a"', "b", rows["pid"])
    assert len(parts) == 4
    assert b"".join(parts) == b"".join(whole)


def test_an_object_of_constants_needs_no_rows():
    assert chrome.members({"a": "1", "b": '"c"'}) == '{"a":1,"b":"c"}'
    assert chrome.members({}) == "{}"
