"""In how many kernel calls a rank attends what it hears of the others: as few as hiding allows.

One call over everything would wait for the last message; one call a message pays for a launch, a
tail of half-empty waves and a merge each. Messages arrive in a known order at a known rate while
the rank attends its own keys, so the best cut is a shortest path over the messages.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fapool.runtime.sequence.zigzag import Zigzag


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How fast a rank is; the defaults are an H200's, and only their ratios matter."""

    flops_per_s: float = 550e12
    link_bytes_per_s: float = 350e9
    memory_bytes_per_s: float = 3e12
    call_s: float = 20e-6  # launch, and the waves that a kernel begins and ends half empty
    beside_s: float = 5e-3  # longer kernels lose more by sharing the L2 than by half-empty waves


@dataclass(frozen=True, kw_only=True)
class Widths:
    """What the times of a layer follow from, beside the tokens."""

    query_items: int  # H x D
    key_items: int  # K x D
    item_bytes: int

    @classmethod
    def of(cls, q: Tensor, k: Tensor) -> Widths:
        """Those of q [., H, D] and k [., K, D]."""
        return cls(
            query_items=q.shape[1] * q.shape[2],
            key_items=k.shape[1] * k.shape[2],
            item_bytes=q.element_size(),
        )

    def flops(self, pairs: int) -> int:
        """Attention over so many pairs of a query and a key, all heads."""
        return 4 * pairs * self.query_items


@dataclass(frozen=True, kw_only=True)
class Message:
    """What comes of hearing one rank; messages of one `side` may share a call."""

    source: int
    side: bool
    num_bytes: int
    flops: int
    merged_bytes: int  # that a call with this message adds to the merge, however many it takes


def own_s(shards: Zigzag, rank: int, widths: Widths, pace: Pace) -> float:
    """How long the call over the rank's own keys takes."""
    return widths.flops(shards.owned(rank) ** 2 // 2) / pace.flops_per_s


def cut(messages: list[Message], own: float, pace: Pace) -> list[tuple[int, ...]]:
    """The sources of each call, in order of arrival; done soonest of all such cuts.

    The rank is busy with its own keys for `own` seconds. Sides follow each other: all messages of
    one, then all of the other.
    """
    arrived, now = [], 0.0
    for message in messages:
        now += message.num_bytes / pace.link_bytes_per_s
        arrived.append(now)
    # done[m]: when the first m messages can be done with at best, and where the last call begins
    done = [(own, 0)]
    for stop in range(1, len(messages) + 1):
        last = messages[stop - 1]
        starts = [at for at in range(stop) if messages[at].side == last.side]
        done.append(
            min(
                (max(done[at][0], arrived[stop - 1]) + _call_s(messages[at:stop], pace), at)
                for at in starts
            )
        )
    calls, stop = [], len(messages)
    while stop:
        start = done[stop][1]
        calls.append(tuple(message.source for message in messages[start:stop]))
        stop = start
    return calls[::-1]


def _call_s(messages: list[Message], pace: Pace) -> float:
    """One call over these messages, and merging what it gives."""
    flops = sum(message.flops for message in messages)
    merge_s = messages[0].merged_bytes / pace.memory_bytes_per_s
    return flops / pace.flops_per_s + merge_s + pace.call_s
