"""What a keeper of blocks has to do with a prefill: arithmetic that both sides do alike.

A step is done in pieces. A segment's new keys are stored with the keepers of its deal, block by
block in turn. The keepers attend over what came before the piece, and the base over the piece
itself, whose keys it has at hand: so no keeper ever needs a causal mask. One is asked only where
it has keys: an empty part never travels. Keepers of copied blocks are asked for a run of a
segment's rows each; those of a team are asked for all, and answer for a run each.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fapool.deals import Deal
from fapool.pieces import IN_FLIGHT
from fapool.runtime.batch import Batch
from fapool.schedule import Segment
from fapool.topology import share as part_of


@dataclass(frozen=True)
class Asked:
    """One segment that a keeper attends for: its rows of the batch, and its keys there."""

    request: int
    rows: range
    visible: int  # local tokens that the queries see, >= 1
    answered: range  # of the rows, those that it sends an answer for
    team: tuple[
        tuple[int, range], ...
    ]  # who of its team attends for these rows, and answers for which


@dataclass(frozen=True)
class Stored:
    """New keys of one segment that a keeper takes: runs of rows of the batch, and where they go."""

    request: int
    runs: tuple[tuple[int, int, int], ...]  # first row, first local position, length; in order

    def __len__(self) -> int:
        return sum(length for _, _, length in self.runs)

    @property
    def rows(self) -> tuple[int, ...]:
        """Rows of the batch."""
        return tuple(row for at, _, length in self.runs for row in range(at, at + length))

    @property
    def positions(self) -> tuple[int, ...]:
        """Local positions of the same keys."""
        return tuple(local for _, at, length in self.runs for local in range(at, at + length))

    def slots(self, blocks: Sequence[int], block: int) -> np.ndarray:
        """Where they lie in a cache in which the request has `blocks`, as indices into [N * P]."""
        local = ranges((at, length) for _, at, length in self.runs)
        return np.asarray(blocks, dtype=np.int64)[local // block] * block + local % block


@dataclass(frozen=True)
class Share:
    """A keeper's part in a step; rows in the batch's order."""

    asked: tuple[Asked, ...]
    stored: tuple[Stored, ...]

    @property
    def num_asked(self) -> int:
        """Queries that are sent."""
        return sum(len(asked.rows) for asked in self.asked)

    @property
    def num_answered(self) -> int:
        """Queries that it sends an answer for."""
        return sum(len(asked.answered) for asked in self.asked)

    @property
    def num_stored(self) -> int:
        """Keys that are sent."""
        return sum(map(len, self.stored))

    @property
    def asked_rows(self) -> np.ndarray:
        """Rows of the queries that are sent."""
        return ranges((asked.rows.start, len(asked.rows)) for asked in self.asked)

    @property
    def stored_rows(self) -> np.ndarray:
        """Rows of the keys that are sent."""
        return ranges((at, length) for stored in self.stored for at, _, length in stored.runs)

    @property
    def is_empty(self) -> bool:
        """Nothing is sent at all."""
        return not self.asked and not self.stored


def share(
    batch: Batch,
    keeper: int,
    deals: Mapping[int, Deal],
    block: int,
    *,
    requests: Container[int],
    team: Sequence[int] = (),
) -> Share:
    """What `keeper` has to do with the `requests` among a prefill's segments.

    `team`: keepers, itself among them, that merge their partials before they answer.
    """
    asked, stored = [], []
    for start, segment in zip(batch.starts, batch.segments, strict=True):
        if segment.request not in requests:
            continue
        deal = deals[segment.request]
        visible = deal.tokens(segment.start, block, keeper)
        rows = _rows(range(start, start + segment.length), deal, keeper)
        if visible and rows:
            mates = [mate for mate in team if deal.tokens(segment.start, block, mate)]
            runs = {mate: _run(rows, len(mates), turn) for turn, mate in enumerate(mates)}
            answered = runs.get(keeper, rows)
            asked.append(Asked(segment.request, rows, visible, answered, tuple(runs.items())))
        taken = _stored(segment, start, deal, keeper, block)
        if taken.runs:
            stored.append(taken)
    return Share(tuple(asked), tuple(stored))


def number_of(step: int, slot: int, layers: int) -> int:
    """The number of the first exchange of a step's piece; those of its layers follow."""
    return (step * IN_FLIGHT + slot) * layers


def moved(request: int, tokens: int, deal: Deal, keeper: int, block: int) -> Stored:
    """The first `tokens` tokens of a request that go to `keeper`; rows are positions."""
    return _stored(Segment(request, 0, tokens, False), 0, deal, keeper, block)


def ranges(runs: Iterable[tuple[int, int]]) -> np.ndarray:
    """The whole numbers of runs (first, length), one run after the other."""
    found = [np.arange(first, first + length) for first, length in runs]
    return np.concatenate(found) if found else np.zeros(0, dtype=np.int64)


def _rows(rows: range, deal: Deal, keeper: int) -> range:
    """Of a segment's rows those that `keeper` attends for: all, or its run where all have keys."""
    if not deal.copied or keeper not in deal.keepers:
        return rows
    return _run(rows, len(deal.keepers), deal.keepers.index(keeper))


def _run(rows: range, parts: int, index: int) -> range:
    mine = part_of(len(rows), parts, index)
    return rows[mine.start : mine.stop]


def _stored(segment: Segment, start: int, deal: Deal, keeper: int, block: int) -> Stored:
    runs: list[tuple[int, int, int]] = []
    for number in range(segment.start // block, -(-segment.end // block)):
        if not deal.keeps(number, keeper):
            continue
        low = max(number * block, segment.start)
        high = min((number + 1) * block, segment.end)
        local = (deal.blocks(number, keeper) - number) * block
        runs.append((start + low - segment.start, low + local, high - low))
    return Stored(segment.request, tuple(runs))


def slots_of(part: Share, tables: Mapping[int, Sequence[int]], block: int) -> np.ndarray:
    """Where a keeper's new keys lie, as indices into [N * P]; `tables`: request -> its blocks."""
    found = [stored.slots(tables[stored.request], block) for stored in part.stored]
    return np.concatenate(found) if found else np.zeros(0, dtype=np.int64)
