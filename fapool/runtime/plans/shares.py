"""What a column of the pool has to do with a step: arithmetic that both sides do alike.

A segment's new keys are stored on the columns of its lease, block by block in turn. In decode the
query sees the new token's key where it was just stored. In prefill the pool attends over what came
before the chunk, and the base over the chunk itself, whose keys it has at hand: so no column ever
needs a causal mask. A column is asked only where it has keys: an empty part never travels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fapool.leases import Lease
from fapool.runtime.batch import Batch
from fapool.schedule import Segment
from fapool.topology import local_tokens


@dataclass(frozen=True)
class Asked:
    """One segment that a column attends for: its rows of the batch, and its keys there."""

    request: int
    rows: range
    visible: int  # local tokens that the queries see, >= 1


@dataclass(frozen=True)
class Stored:
    """New keys of one segment that a column takes: rows of the batch, and local positions."""

    request: int
    rows: tuple[int, ...]
    positions: tuple[int, ...]


@dataclass(frozen=True)
class Share:
    """A column's part in a step; rows in the batch's order."""

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


def share(batch: Batch, column: int, leases: Mapping[int, Lease], block: int) -> Share:
    """The share of `column` in a batch whose leased requests have `leases`; `block` in tokens."""
    asked, stored = [], []
    for start, segment in zip(batch.starts, batch.segments, strict=True):
        lease = leases.get(segment.request)
        if lease is None or column not in lease.columns:
            continue
        index, shards = lease.columns.index(column), len(lease.columns)
        seen = segment.end if batch.kind == "decode" else segment.start
        visible = local_tokens(seen, block, shards, index)
        if visible:
            rows = range(start, start + segment.length)
            asked.append(Asked(segment.request, rows, visible))
        taken = _stored(segment, start, index, shards, block)
        if taken.rows:
            stored.append(taken)
    return Share(tuple(asked), tuple(stored))


def moved(request: int, tokens: int, index: int, shards: int, block: int) -> Stored:
    """The first `tokens` tokens of a request that go to shard `index`; rows are positions."""
    return _stored(Segment(request, 0, tokens, False), 0, index, shards, block)


def _stored(segment: Segment, start: int, index: int, shards: int, block: int) -> Stored:
    rows, positions = [], []
    for number in range(segment.start // block, -(-segment.end // block)):
        if number % shards != index:
            continue
        low = max(number * block, segment.start)
        high = min((number + 1) * block, segment.end)
        local = (number // shards) * block - number * block
        rows.extend(range(start + low - segment.start, start + high - segment.start))
        positions.extend(range(low + local, high + local))
    return Stored(segment.request, tuple(rows), tuple(positions))
