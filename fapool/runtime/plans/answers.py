"""Which rows of a piece partials come for, who sends them, and where they lie in its message.

base                   | row 0 .. of a segment      |      pool ranks 0 and 1 of one node,
  answer of rank 0     |  merged   |                       2 of another: each row comes
  answer of rank 1                 |    merged      |      once a node
  answer of rank 2     |        as it is            |
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from fapool.runtime.partial import Partial
from fapool.runtime.plans.shares import Share, ranges
from fapool.runtime.sequence.merging import merge_into


@dataclass(frozen=True)
class Run:
    """Consecutive rows, and the partials that come for all of them."""

    rows: slice
    parts: tuple[tuple[int, slice], ...]  # which message, and which of its rows


@dataclass(frozen=True)
class Teamwork:
    """What a pool rank passes to its team and gets from it in every layer of a piece."""

    kept: np.ndarray  # of the rows that it attends for, those that it answers for
    given: tuple[tuple[int, np.ndarray], ...]  # column of a mate, rows that it answers for
    taken: tuple[tuple[int, int], ...]  # column of a mate, number of rows that come from it
    runs: tuple[Run, ...]  # of the rows that it answers for, in their order


def answers_to(parts: Sequence[Share]) -> dict[int, dict[range, list[tuple[int, slice]]]]:
    """Request -> rows of the batch -> which of `parts` answers for these, by which of its rows."""
    found: dict[int, dict[range, list[tuple[int, slice]]]] = {}
    for number, part in enumerate(parts):
        start = 0
        for asked in part.asked:
            if not asked.answered:
                continue
            rows = slice(start, start + len(asked.answered))
            runs = found.setdefault(asked.request, {})
            runs.setdefault(asked.answered, []).append((number, rows))
            start = rows.stop
    return found


def teamwork(mine: Share, keeper: int) -> Teamwork | None:
    """What `keeper` does with its team; None where it answers for all that it attends for."""
    kept: list[tuple[int, int]] = []
    given: dict[int, list[tuple[int, int]]] = {}
    coming: dict[int, int] = {}
    runs, first, at = [], 0, 0
    for asked in mine.asked:
        number, parts = len(asked.answered), []
        for column, rows in asked.team:
            place = first + rows.start - asked.rows.start, len(rows)
            if column == keeper:
                kept.append(place)
                continue
            given.setdefault(column, []).append(place)
            start = coming.setdefault(column, 0)
            coming[column] += number
            parts.append((list(coming).index(column), slice(start, start + number)))
        runs.append(Run(slice(at, at + number), tuple(parts)))
        first, at = first + len(asked.rows), at + number
    if not given:
        return None
    passed = tuple((column, ranges(places)) for column, places in given.items())
    return Teamwork(ranges(kept), passed, tuple(coming.items()), tuple(runs))


def merge_runs(total: Partial, runs: Iterable[Run], messages: Sequence[Partial]) -> None:
    """Merge into `total` [T, H, D], in place, what `messages` have for its runs of rows."""
    for run in runs:
        merge_into(rows_of(total, run.rows), [rows_of(messages[n], at) for n, at in run.parts])


def rows_of(part: Partial, rows: slice) -> Partial:
    """Some rows of a partial, as views."""
    return Partial(part.out[rows], part.lse[rows])
