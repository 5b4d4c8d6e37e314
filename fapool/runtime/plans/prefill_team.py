"""Partials of a prefill among the pool ranks of a node: each merges all for a run of the rows.

attended by both      rank 0  | a a a a |  rank 1  | b b b b |      a reduce-scatter:
merged by one         rank 0  | m m |      rank 1      | m m |      each row to one of them

shapes:  nA queries, nR of them answered here, H heads of the head group, D head dim
"""

from __future__ import annotations

from collections.abc import Sequence

from fapool.phases import Phase
from fapool.runtime.batch import Batch
from fapool.runtime.exchange.lane import Stop
from fapool.runtime.partial import Partial, lse_dtype
from fapool.runtime.plans.answers import Teamwork, merge_runs
from fapool.runtime.seat import Seat


class Merging:
    """A pool rank's part in a piece; `ranks`: by column."""

    def __init__(self, seat: Seat, shared: Teamwork, batch: Batch, ranks: Sequence[int]) -> None:
        self._seat, self._runs = seat, shared.runs
        kept, *given = batch.selections([shared.kept, *(rows for _, rows in shared.given)])
        columns = [column for column, _ in shared.given]
        self._kept = kept
        self._given = [(ranks[c], rows) for c, rows in zip(columns, given, strict=True)]
        self._taken = [(ranks[column], number) for column, number in shared.taken]

    def merged(self, stop: Stop, part: Partial) -> Partial:
        """[nA, H, D] over the keys here -> [nR, H, D] over those of the team."""
        (_, heads, dim), dtype = part.out.shape, part.out.dtype
        lse = part.lse.T
        with self._seat.span(Phase.PACK, layer=stop.layer):
            parcels = [
                (rank, [part.out[rows].contiguous(), lse[:, rows].contiguous()])
                for rank, rows in self._given
            ]
            total = Partial(part.out[self._kept].contiguous(), lse[:, self._kept].T)
        outlines = [
            (rank, [((number, heads, dim), dtype), ((heads, number), lse_dtype(dtype))])
            for rank, number in self._taken
        ]
        mates = self._seat.lanes.mates
        coming = mates.swap(stop, parcels, outlines).wait()
        with self._seat.span(Phase.MERGE, layer=stop.layer):
            merge_runs(total, self._runs, [Partial(out, lse.T) for out, lse in coming])
        mates.let_go(stop.slot)
        return total
