"""Who sends which rows to whom in one exchange, and where they come to lie: pure ints.

In step s of an exchange every rank sends to one rank and hears of one, the same distance apart all
around, so that all links are busy and none is shared. What is heard of lies end to end in a
buffer, in order of the steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from fapool.runtime.sequence.zigzag import Zigzag


@dataclass(frozen=True, kw_only=True)
class Mail:
    """One rank's part of an exchange. Spans may be empty; nothing is sent then."""

    targets: tuple[int, ...]  # by step
    sources: tuple[int, ...]  # by step
    sent: dict[int, slice]  # target -> rows of the own tensors
    there: dict[int, int]  # target -> row of its buffer where they begin
    heard: dict[int, slice]  # source -> rows of the buffer here

    @property
    def num_rows(self) -> int:
        """Rows that are heard of."""
        return self.heard[self.sources[-1]].stop if self.sources else 0


@lru_cache(maxsize=1024)
def of_keys(shards: Zigzag, rank: int) -> Mail:
    """Keys travel to the queries: to each rank those that its queries see."""
    targets, sources = _around(shards, rank, 1)

    def heard(at: int) -> dict[int, slice]:
        return _laid_out(_around(shards, at, 1)[1], lambda source: shards.visible(source, at))

    return Mail(
        targets=targets,
        sources=sources,
        sent={target: slice(0, shards.visible(rank, target)) for target in targets},
        there={target: heard(target)[rank].start for target in targets},
        heard=heard(rank),
    )


@lru_cache(maxsize=1024)
def of_queries(shards: Zigzag, rank: int) -> Mail:
    """Queries travel to the keys: to each rank those that see keys there."""
    targets, sources = _around(shards, rank, 1)
    owned = shards.owned(rank)
    return Mail(
        targets=targets,
        sources=sources,
        sent={t: slice(owned - shards.queries(t, rank), owned) for t in targets},
        there={target: _asked(shards, target)[rank].start for target in targets},
        heard=_asked(shards, rank),
    )


@lru_cache(maxsize=1024)
def of_answers(shards: Zigzag, rank: int) -> Mail:
    """Partials travel back, rows as the queries were heard of, in the order in which they were."""
    targets, sources = _around(shards, rank, -1)

    def heard(at: int) -> dict[int, slice]:
        return _laid_out(_around(shards, at, -1)[1], lambda source: shards.queries(source, at))

    return Mail(
        targets=targets,
        sources=sources,
        sent=_asked(shards, rank),
        there={target: heard(target)[rank].start for target in targets},
        heard=heard(rank),
    )


def _asked(shards: Zigzag, rank: int) -> dict[int, slice]:
    """Rows of the queries that others send to `rank`."""
    return _laid_out(_around(shards, rank, 1)[1], lambda source: shards.queries(rank, source))


def _around(shards: Zigzag, rank: int, way: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Targets and sources by step; forward (way = 1) the sources are rank-1 .. 0, n-1 .. rank+1."""
    ranks, steps = shards.num_ranks, range(1, shards.num_ranks)
    return (
        tuple((rank + way * step) % ranks for step in steps),
        tuple((rank - way * step) % ranks for step in steps),
    )


def _laid_out(sources: tuple[int, ...], num_rows) -> dict[int, slice]:
    spans, start = {}, 0
    for source in sources:
        spans[source] = slice(start, start + num_rows(source))
        start = spans[source].stop
    return spans
