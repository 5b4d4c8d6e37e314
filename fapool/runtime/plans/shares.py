"""What a keeper of blocks has to do with a prefill: arithmetic that both sides do alike.

A segment's new keys are stored with the keepers of its deal, block by block in turn. The keepers
attend over what came before the chunk, and the base over the chunk itself, whose keys it has at
hand: so no keeper ever needs a causal mask. One is asked only where it has keys: an empty part
never travels.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass

from fapool.deals import Deal
from fapool.runtime.batch import Batch
from fapool.schedule import Segment


@dataclass(frozen=True)
class Asked:
    """One segment that a keeper attends for: its rows of the batch, and its keys there."""

    request: int
    rows: range
    visible: int  # local tokens that the queries see, >= 1


@dataclass(frozen=True)
class Stored:
    """New keys of one segment that a keeper takes: rows of the batch, and local positions."""

    request: int
    rows: tuple[int, ...]
    positions: tuple[int, ...]


@dataclass(frozen=True)
class Share:
    """A keeper's part in a step; rows in the batch's order."""

    asked: tuple[Asked, ...]
    stored: tuple[Stored, ...]

    @property
    def asked_rows(self) -> list[int]:
        """Rows of the queries that are sent."""
        return [row for asked in self.asked for row in asked.rows]

    @property
    def stored_rows(self) -> list[int]:
        """Rows of the keys that are sent."""
        return [row for stored in self.stored for row in stored.rows]

    @property
    def is_empty(self) -> bool:
        """Nothing is sent at all."""
        return not self.asked and not self.stored


def share(
    batch: Batch, keeper: int, deals: Mapping[int, Deal], block: int, *, requests: Container[int]
) -> Share:
    """What `keeper` has to do with the `requests` among a prefill's segments."""
    asked, stored = [], []
    for start, segment in zip(batch.starts, batch.segments, strict=True):
        if segment.request not in requests:
            continue
        deal = deals[segment.request]
        visible = deal.tokens(segment.start, block, keeper)
        if visible:
            rows = range(start, start + segment.length)
            asked.append(Asked(segment.request, rows, visible))
        taken = _stored(segment, start, deal, keeper, block)
        if taken.rows:
            stored.append(taken)
    return Share(tuple(asked), tuple(stored))


def moved(request: int, tokens: int, deal: Deal, keeper: int, block: int) -> Stored:
    """The first `tokens` tokens of a request that go to `keeper`; rows are positions."""
    return _stored(Segment(request, 0, tokens, False), 0, deal, keeper, block)


def _stored(segment: Segment, start: int, deal: Deal, keeper: int, block: int) -> Stored:
    rows, positions = [], []
    for number in range(segment.start // block, -(-segment.end // block)):
        if deal.owner(number) != keeper:
            continue
        low = max(number * block, segment.start)
        high = min((number + 1) * block, segment.end)
        local = (deal.blocks(number, keeper) - number) * block
        rows.extend(range(start + low - segment.start, start + high - segment.start))
        positions.extend(range(low + local, high + local))
    return Stored(segment.request, tuple(rows), tuple(positions))
