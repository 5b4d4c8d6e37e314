"""One step of all ranks as a graph of spans: its critical path, and how long it would be without.

A rank's pieces follow each other; a wait ends no earlier than the rank that it is for arrived,
plus what its transfer took. Backwards from the end of the step, each moment has one cause:

    rank 0   [ ffn ][ all_reduce: waiting | transfer ][ logits ]
                                          ^                          the chain leaves rank 0 here
    rank 1   [          ffn             ][ all_reduce ]              and goes on in rank 1's ffn

Gaps and barriers last as long as they did, whatever caused them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Arrival = tuple[int, int]
"""rank, ns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A stretch of one rank's time, [start, end) ns. `phase` is "" where nothing was recorded.

    `waiting`: before the arrival of another. `sources`: arrivals (rank, ns) of those that the wait
    is for that this piece is part of, `last` of them the one that ends the waiting.
    """

    start_ns: int
    end_ns: int
    event: int = -1
    phase: str = ""
    waiting: bool = False
    last: Arrival | None = None
    sources: tuple[Arrival, ...] = ()


Ranks = Mapping[int, Sequence[Piece]]
"""Each rank's pieces, without a gap, from the step's start to the latest end; cut at sources."""


def chain(ranks: Ranks, rank: int, start_ns: int, end_ns: int) -> list[tuple[int, int, Piece]]:
    """The critical path back from `end_ns` on `rank`: (rank, from which ns, piece), latest first.

    Each reaches up to the one before it: together they fill [start, end).
    """
    found: list[tuple[int, int, Piece]] = []
    at = {other: len(pieces) for other, pieces in ranks.items()}
    now, seen = end_ns, {rank}
    while now > start_ns:
        number = _before(ranks[rank], at[rank], now)
        piece = ranks[rank][number]
        at[rank] = number + 1
        last = piece.last
        if piece.waiting and last and last[1] == now and last[0] not in seen:
            rank = last[0]
            seen.add(rank)
            continue
        begin = max(piece.start_ns, start_ns)
        found.append((rank, begin, piece))
        now, seen = begin, {rank}
    return found


def replay(
    ranks: Ranks, start_ns: int, ends_ns: Mapping[int, int], without: str | None = None
) -> int:
    """The step's length in ns if spans of phase `without` took no time; None: as it was.

    `ends_ns`: when each rank was done with the step, at a border of its pieces.
    """
    now = dict.fromkeys(ranks, start_ns)
    began: dict[int, tuple[int, int]] = {}  # rank -> event of the wait it is in, and since when
    reached = {(rank, start_ns): start_ns for rank in ranks}
    for rank, piece in _in_order(ranks):
        time_ns, length = now[rank], piece.end_ns - piece.start_ns
        if not piece.waiting:
            began.pop(rank, None)
        elif began.get(rank, (None,))[0] != piece.event:
            began[rank] = piece.event, time_ns
        if piece.waiting and piece.last and piece.end_ns == piece.last[1]:
            time_ns, length = began[rank][1], 0
        if piece.last and piece.end_ns >= piece.last[1]:
            time_ns = max(time_ns, *(reached.get(source, start_ns) for source in piece.sources))
        if not piece.phase or piece.phase != without:
            time_ns += length
        now[rank] = reached[rank, piece.end_ns] = time_ns
    return max(reached[rank, end] for rank, end in ends_ns.items()) - start_ns


def _in_order(ranks: Ranks) -> list[tuple[int, Piece]]:
    """All pieces, each after those that it depends on: by end, and at one end waits come last.

    Of waits that end at once, one after the rank that it is for.
    """
    pieces = [(rank, piece) for rank, own in ranks.items() for piece in own]
    pieces.sort(key=lambda item: (item[1].end_ns, item[1].waiting))
    ends = {(rank, piece.end_ns): (rank, piece) for rank, piece in pieces}
    done: set[tuple[int, int]] = set()
    found: list[tuple[int, Piece]] = []

    def add(rank: int, piece: Piece) -> None:
        key = rank, piece.end_ns
        if key in done:
            return
        done.add(key)  # first: records that contradict each other end here
        for source in piece.sources:
            if source in ends and source[1] == piece.end_ns:
                add(*ends[source])
        found.append((rank, piece))

    for rank, piece in pieces:
        add(rank, piece)
    return found


def _before(pieces: Sequence[Piece], number: int, time_ns: int) -> int:
    """The piece that is under way just before a time, sought backwards from `number`."""
    number = min(number, len(pieces)) - 1
    while number > 0 and pieces[number].start_ns >= time_ns:
        number -= 1
    return number
