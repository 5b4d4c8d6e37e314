"""Borders of elements, against the json module."""

import json

from hypothesis import given
from hypothesis import strategies as st

from fapool.traces import borders

words = st.text(st.sampled_from('{}[],:"\\ \n\x00ä€ab'), max_size=6)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)
arrays = st.lists(values, max_size=5)
separators = st.sampled_from([(",", ":"), (", ", ": "), (" ,\n ", " : ")])


def inside(array: list, separators: tuple[str, str], *, ascii_only: bool) -> str:
    return json.dumps(array, separators=separators, ensure_ascii=ascii_only)[1:]


@given(arrays, separators, st.booleans())
def test_elements_are_those_of_the_array_and_what_follows_it_stays(array, separators, ascii_only):
    text = (inside(array, separators, ascii_only=ascii_only) + ', "more": [{}, {}]}').encode()
    pieces, after, end = borders.elements(text)
    assert [json.loads(piece) for piece in pieces] == array
    assert text[end:].startswith(b"]")
    assert after == end
    assert json.loads(b"{" + text[end + 2 :]) == {"more": [{}, {}]}


@given(arrays, separators, st.data())
def test_of_a_cut_array_the_elements_before_the_cut_are_found(array, separators, data):
    text = inside(array, separators, ascii_only=False).encode()
    cut = data.draw(st.integers(0, len(text) - 1))
    pieces, after, end = borders.elements(text[:cut])
    assert end == -1
    found = [json.loads(piece) for piece in pieces]
    assert found == array[: len(found)]
    whole = json.loads("[" + text[after:].decode()) if len(found) < len(array) else []
    assert found + whole == array


@given(st.lists(st.dictionaries(words, values, max_size=3), min_size=2, max_size=6))
def test_a_likely_cut_gives_a_valid_list_only_between_two_elements(array):
    text = inside(array, (",", ":"), ascii_only=False)[:-1].encode()
    cut = borders.likely_cut(text)
    try:
        before = json.loads(b"[" + text[:cut] + b"]")
    except ValueError:
        return
    assert cut < 0 or before + json.loads(b"[" + text[cut + 1 :] + b"]") == array
