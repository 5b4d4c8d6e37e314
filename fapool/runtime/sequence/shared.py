"""kv="shared": the keys travel, and every rank attends its own queries over all that they see.

shapes:  S tokens of a rank, H heads, K KV heads (K divides H), D head dim
"""

from __future__ import annotations

from functools import lru_cache

from torch import Tensor

from fapool.runtime.attention.base import Backend
from fapool.runtime.partial import Partial
from fapool.runtime.sequence import calls
from fapool.runtime.sequence.base import Carrier
from fapool.runtime.sequence.lanes import Lanes
from fapool.runtime.sequence.mail import of_keys
from fapool.runtime.sequence.pacing import Message, Pace, Widths, cut, own_s
from fapool.runtime.sequence.zigzag import Zigzag


class SharedKeys:
    """Causal attention of one prompt on one rank of a group; every rank of it makes the same calls.

    `carrier` carries (k, v): KV heads alone travel.
    """

    def __init__(
        self, backend: Backend, carrier: Carrier, rank: int, *, pace: Pace | None = None
    ) -> None:
        self._backend, self._carrier, self._rank = backend, carrier, rank
        self._pace, self._lanes = pace or Pace(), Lanes()

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, shards: Zigzag) -> Tensor:
        """q [S, H, D], k and v [S, K, D], early chunk first -> out [S, H, D]; all contiguous."""
        assert q.shape[0] == shards.owned(self._rank), (q.shape, shards, self._rank)
        carrier, mail = self._carrier, of_keys(shards, self._rank)
        ready = carrier.mark()
        total = calls.own(self._backend, q, k, v)
        carrier.begin(mail, (k, v))
        carrier.post(ready, (k, v), mail.targets)
        widths = Widths.of(q, k)
        groups = planned(shards, self._rank, widths, self._pace)
        short = own_s(shards, self._rank, widths, self._pace) < self._pace.beside_s
        parts: list[Partial] = []

        def attend(sources: tuple[int, ...]) -> tuple[Tensor, Tensor]:
            carrier.wait(sources)
            rows = slice(mail.heard[sources[0]].start, mail.heard[sources[-1]].stop)
            queries = q[q.shape[0] - shards.queries(sources[0], self._rank) :]
            part = calls.over(self._backend, queries, *(x[rows] for x in carrier.received))
            parts.append(part)
            return part.out, part.lse

        self._lanes.run(
            [lambda group=group: attend(group) for group in groups], ready, beside=short
        )
        carrier.finish()
        calls.merge(total, len(shards.early(self._rank)), parts)
        return total.out


@lru_cache(maxsize=1024)
def planned(shards: Zigzag, rank: int, widths: Widths, pace: Pace) -> list[tuple[int, ...]]:
    """The sources of each call over what the others send."""
    return cut(messages(shards, rank, widths), own_s(shards, rank, widths, pace), pace)


def messages(shards: Zigzag, rank: int, widths: Widths) -> list[Message]:
    """What the others send, in order of arrival, with the attention that is due on it."""
    return [
        Message(
            source=source,
            side=source < rank,
            num_bytes=2 * rows * widths.key_items * widths.item_bytes,
            flops=widths.flops(rows * shards.queries(source, rank)),
            merged_bytes=shards.queries(source, rank) * widths.query_items * widths.item_bytes,
        )
        for source in of_keys(shards, rank).sources
        if (rows := shards.visible(source, rank))
    ]
