"""Where the elements of a JSON array begin and end, without parsing them."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

_BETWEEN = re.compile(rb"\}\s*,\s*\{")
_KINETO_BETWEEN = re.compile(rb"(?<=\n  \}),(?=\n  \{)")
_KINETO_END = re.compile(rb"(?<=\n  \})\s*\](?=[,\s}])")
_SEARCHED_BYTES = 1 << 12, 1 << 16
_QUOTE, _BACKSLASH, _COMMA = b'"\\,'
_OPEN, _CLOSE = np.frombuffer(b"{[", np.uint8), np.frombuffer(b"}]", np.uint8)


def likely_cut(text: bytes) -> int:
    """The place of a comma between two objects near the end of `text`, -1 where none is found.

    It may lie inside an object or a word. But where `text` begins at an element, the part before
    the cut is a valid list of elements only if the cut lies between two of them.
    """
    for searched in _SEARCHED_BYTES:
        cut = -1
        for found in _BETWEEN.finditer(text, max(0, len(text) - searched)):
            cut = text.index(b",", found.start())
        if cut >= 0:
            return cut
    return -1


def elements(text: bytes) -> tuple[list[bytes], int, int]:
    """(complete elements of an array, place after the last of them, place of the array's end).

    `text` begins after the array's opening bracket or after a comma. The array's end is the place
    of its closing bracket, -1 when `text` ends before. An element is complete when a comma or the
    array's end follows it.
    """
    places, marks = _structure(text)
    depth = np.cumsum(np.isin(marks, _OPEN).astype(np.int32) - np.isin(marks, _CLOSE))
    below = np.flatnonzero(depth < 0)
    end = int(places[below[0]]) if len(below) else -1
    commas = places[(marks == _COMMA) & (depth == 0)]
    stops = commas.tolist() if end < 0 else [*commas[commas < end].tolist(), end]
    starts = [0, *(stop + 1 for stop in stops)]
    pieces = [text[start:stop].strip() for start, stop in zip(starts, stops, strict=False)]
    after = starts[len(stops)] if end < 0 else end
    return [piece for piece in pieces if piece], after, end


def kineto_elements(text: bytes) -> tuple[list[bytes], int, int] | None:
    """The same by the lines that Kineto begins and ends an event with; None where it has none.

    Right though words be broken, for no word of valid JSON goes over the end of a line.
    """
    end = found.end() - 1 if (found := _KINETO_END.search(text)) else -1
    stops = [found.start() for found in _KINETO_BETWEEN.finditer(text, 0, max(end, 0) or len(text))]
    if not stops and end < 0:
        return None
    stops += [end] * (end >= 0)
    starts = [0, *(stop + 1 for stop in stops)]
    pieces = [text[start:stop] for start, stop in zip(starts, stops, strict=False)]
    return pieces, starts[-1] if end < 0 else end, end


def _structure(text: bytes) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """(places, bytes) of all brackets and commas outside of words."""
    chars = np.frombuffer(text, np.uint8)
    quotes = np.flatnonzero(chars == _QUOTE)
    escaped = _escaped(chars, quotes) if _BACKSLASH in text else np.zeros(len(quotes), bool)
    borders = np.zeros(len(chars), np.uint8)
    borders[quotes[~escaped]] = 1
    outside = (np.cumsum(borders, dtype=np.uint8) & 1) == 0
    marked = (chars == _COMMA) | np.isin(chars, _OPEN) | np.isin(chars, _CLOSE)
    places = np.flatnonzero(marked & outside)
    return places, chars[places]


def _escaped(chars: NDArray[np.uint8], quotes: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether an odd number of backslashes stands before each quote."""
    others = np.r_[-1, np.flatnonzero(chars != _BACKSLASH)]  # -1: before the text
    last = others[np.searchsorted(others, quotes, side="left") - 1]
    return (quotes - 1 - last) % 2 == 1
