"""One pass over a trace's text: its events in lists, block by block, then what stands beside them.

    { "schemaVersion": 1, ...  "traceEvents": [ {...}, {...}, | {...}, ... ], "traceName": ... }
      head                                      block         cut    block    tail

Never more than a block of text and its events is in memory. A block that is no valid JSON is taken
apart event by event, and only those that cannot be read are left out, and counted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path
from typing import Any

import msgspec

from fapool.errors import ProfileFileError
from fapool.traces import borders
from fapool.traces.events import EXACT_BELOW_US, UNREADABLE, Event, ExactEvent
from fapool.traces.text import blocks

BLOCK_BYTES = 1 << 19
MAX_HEAD_BYTES = 1 << 26
"""A file without events up to there, or with this much beside them, is no trace."""

_INSTANT = attrgetter("ts")
_OPENING = re.compile(rb'"traceEvents"\s*:\s*\[')
_BASE = re.compile(rb'"baseTimeNanoseconds"\s*:\s*(\d{1,19})\b')
_NO_NUMBER = re.compile(rb":\s*-?(?:nan|inf|infinity)\s*(?=[,}\]\n])", re.IGNORECASE)
_WAY_OUT = "no trace: give a Chrome trace (JSON, with a list traceEvents), plain or gzipped"


class EventStream:
    """Iterate once for lists of events; all else that has a name here fills meanwhile.

    `skipped` counts events that could not be read; `cut_off`: the list of them does not end.
    """

    def __init__(self, path: Path, block_bytes: int = BLOCK_BYTES) -> None:
        self.path, self.block_bytes = path, block_bytes
        self.metadata: dict[str, Any] = {}
        self.notes: list[str] = []
        self.skipped = 0
        self.cut_off = False
        self._use(Event)

    def _use(self, kind: type[Event]) -> None:
        self._one = msgspec.json.Decoder(kind)
        self._many = msgspec.json.Decoder(list[kind])
        self._exact = kind is ExactEvent

    def __iter__(self) -> Iterator[list[Event]]:
        """Lists of events in the order of the file.

        Raises:
            ProfileFileError: the file cannot be opened, or is no trace.
        """
        texts = blocks(self.path, self.notes, self.block_bytes)
        text, bare = self._after_head(texts)
        more: bytes | None = b""
        end = -1
        while end < 0 and more is not None:
            text += more
            cut = borders.likely_cut(text)
            events = self._decode(text[:cut]) if cut > 0 else None
            if events is None:
                events, text, end = self._apart(text)
            else:
                text = text[cut + 1 :]
            yield events
            more = next(texts, None)
        if end < 0:
            events, text, end = self._apart(text)
            yield events
        if end < 0:
            yield self._cut_off(text)
        elif not bare:
            self._read_tail(text[1:] + (more or b""), texts)

    def _after_head(self, texts: Iterator[bytes]) -> tuple[bytes, bool]:
        """(text from the first event on, whether the file is an array and nothing else)."""
        head = b""
        for more in texts:
            searched = max(0, len(head) - 64)
            head += more
            start = head.lstrip()[:1]
            if start == b"[":
                return head[head.index(b"[") + 1 :], True
            if start not in (b"{", b"") or len(head) > MAX_HEAD_BYTES:
                break
            for found in _OPENING.finditer(head, searched):
                if self._read_head(head[: found.start()]):
                    return head[found.end() :], False
        raise ProfileFileError("trace", str(self.path), self._no_trace(head))

    def _read_head(self, head: bytes) -> bool:
        """Whether `head` ends where a member of the file's object begins."""
        try:
            self.metadata = msgspec.json.decode(head + b'"": 0}')
        except UNREADABLE:
            if b'"schemaVersion"' not in head:
                return False
            self.notes.append("what stands before the events is no valid JSON: its base is kept")
            base = _BASE.search(head)
            self.metadata = {"baseTimeNanoseconds": int(base[1])} if base else {}
        self.metadata.pop("", None)
        return True

    def _no_trace(self, head: bytes) -> str:
        if not head.strip():
            return "the file is empty: was the program ended before it wrote its trace?"
        if b'"schemaVersion"' in head and not _OPENING.search(head):
            return "the file is cut off before its first event: write the trace again"
        return _WAY_OUT

    def _cut_off(self, text: bytes) -> list[Event]:
        """The event that stands last in a list that was not closed, if it is whole."""
        self.cut_off = True
        self.notes.append("the list of events is cut off: what came after is missing")
        try:
            return [self._one.decode(text)]
        except UNREADABLE:
            return []

    def _read_tail(self, text: bytes, texts: Iterator[bytes]) -> None:
        for more in texts:
            text += more
            if len(text) > MAX_HEAD_BYTES:
                break
        try:
            self.metadata |= msgspec.json.decode(b'{"": 0' + text)
        except UNREADABLE:
            self.notes.append("what stands behind the events could not be read")
        self.metadata.pop("", None)

    def _decode(self, text: bytes) -> list[Event] | None:
        """The events of a list's inside; None where it is not valid."""
        try:
            events = self._many.decode(b"[" + text + b"]")
        except UNREADABLE:
            mended, count = _NO_NUMBER.subn(b": null", text)
            return self._decode(mended) if count else None
        if self._exact or _fit_floats(events):
            return events
        self._use(ExactEvent)
        return self._decode(text)

    def _apart(self, text: bytes) -> tuple[list[Event], bytes, int]:
        """(events that could be read, text after the last complete one, place of the list's end).

        The place is -1 where the list goes on; otherwise the text begins there.
        """
        pieces, after, end = borders.elements(text)
        events = self._decode(b",".join(pieces))
        if events is None:
            # a word that does not end would swallow what follows it, but it ends with its line
            pieces, after, end = borders.kineto_elements(text) or (pieces, after, end)
            events = [event for event in map(self._rescue, pieces) if event is not None]
        return events, text[after:], end

    def _rescue(self, piece: bytes) -> Event | None:
        mended = _NO_NUMBER.sub(b": null", piece.decode(errors="replace").encode())
        try:
            return self._one.decode(mended)
        except UNREADABLE:
            self.skipped += 1
            return None


def _fit_floats(events: list[Event]) -> bool:
    instants: list[Any] = list(map(_INSTANT, events))
    try:
        return max(instants) < EXACT_BELOW_US and min(instants) > -EXACT_BELOW_US
    except (TypeError, ValueError):  # not all are numbers, or there are none
        floats = [instant for instant in instants if instant.__class__ is float]
        return max(map(abs, floats), default=0.0) < EXACT_BELOW_US
