"""kv="sharded": the keys stay where they are; queries travel to them, and partials back.

Every rank merges the partials of its own queries: a reduce-scatter by log-sum-exp.

    shapes:  S tokens of a rank, H heads, K KV heads (K divides H), D head dim
"""

from __future__ import annotations

from functools import lru_cache

from torch import Tensor

from fapool.runtime.attention.base import Backend
from fapool.runtime.partial import Partial, lse_dtype
from fapool.runtime.sequence import calls
from fapool.runtime.sequence.base import Carrier
from fapool.runtime.sequence.mail import of_answers, of_queries
from fapool.runtime.sequence.pacing import Message, Pace, Widths, cut, own_s
from fapool.runtime.sequence.zigzag import Zigzag


class ShardedKeys:
    """Causal attention of one prompt on one rank of a group; every rank of it makes the same calls.

    `asking` carries (q,) and `answering` (out [., H, D], lse [., H]). Queries of ranks before this
    one see all its keys, those of ranks after it the early ones: two runs of rows in the buffer.
    """

    def __init__(
        self,
        backend: Backend,
        asking: Carrier,
        answering: Carrier,
        rank: int,
        *,
        pace: Pace | None = None,
    ) -> None:
        self._backend, self._asking, self._answering = backend, asking, answering
        self._rank, self._pace = rank, pace or Pace()

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, shards: Zigzag) -> Tensor:
        """q [S, H, D], k and v [S, K, D], early chunk first -> out [S, H, D]; all contiguous."""
        assert q.shape[0] == shards.owned(self._rank), (q.shape, shards, self._rank)
        asked = of_queries(shards, self._rank)
        ready = self._asking.mark()
        total = calls.own(self._backend, q, k, v)
        self._asking.begin(asked, (q,))
        self._asking.post(ready, (q,), asked.targets)
        like = (total.out, total.lse)
        self._answering.begin(of_answers(shards, self._rank), like)
        answers = self._answer(q, k, v, shards)
        self._asking.finish()
        self._answering.finish()
        del answers  # had to stay until now
        calls.merge(total, len(shards.early(self._rank)), self._answered(shards))
        return total.out

    def _answer(self, q: Tensor, k: Tensor, v: Tensor, shards: Zigzag) -> Partial:
        """Attend what the others ask; an answer leaves when its call is done."""
        asked = of_queries(shards, self._rank)
        pending = list(of_answers(shards, self._rank).targets)
        out = q.new_empty(asked.num_rows, *q.shape[1:])
        lse = q.new_empty(out.shape[:2], dtype=lse_dtype(q.dtype))
        for sources in planned(shards, self._rank, Widths.of(q, k), self._pace):
            self._asking.wait(sources)
            rows = slice(asked.heard[sources[0]].start, asked.heard[sources[-1]].stop)
            num_keys = shards.visible(self._rank, sources[0])
            part = calls.over(
                self._backend, self._asking.received[0][rows], k[:num_keys], v[:num_keys]
            )
            out[rows], lse[rows] = part.out, part.lse
            done = pending.index(sources[-1]) + 1
            self._answering.post(self._answering.mark(), (out, lse), pending[:done])
            del pending[:done]
        self._answering.post(self._answering.mark(), (out, lse), pending)
        return Partial(out, lse)

    def _answered(self, shards: Zigzag) -> list[Partial]:
        out, lse = self._answering.received
        spans = of_answers(shards, self._rank).heard.values()
        return [Partial(out[span], lse[span]) for span in spans if span.stop > span.start]


@lru_cache(maxsize=1024)
def planned(shards: Zigzag, rank: int, widths: Widths, pace: Pace) -> list[tuple[int, ...]]:
    """The sources of each call over what the others ask."""
    return cut(questions(shards, rank, widths), own_s(shards, rank, widths, pace), pace)


def questions(shards: Zigzag, rank: int, widths: Widths) -> list[Message]:
    """What the others ask, in order of arrival, with the attention that is due on it."""
    return [
        Message(
            source=source,
            side=source < rank,
            num_bytes=rows * widths.query_items * widths.item_bytes,
            flops=widths.flops(rows * shards.visible(rank, source)),
            merged_bytes=0,
        )
        for source in of_queries(shards, rank).sources
        if (rows := shards.queries(rank, source))
    ]
