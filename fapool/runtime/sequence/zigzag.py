"""Which tokens of a prompt lie on which rank, and which of them see which: pure ints.

    rank    0     1     2     3     3     2     1     0        n ranks, 2n chunks, head and tail
          |  0  |  1  |  2  |  3  |  4  |  5  |  6  |  7  |    every rank owns an early and a late

What rank i sees of the others' keys is the same amount of work from each of them: all of its
queries see the early chunk of a rank before it, and its late queries see both chunks of a rank
after it. On its own two chunks, laid end to end, plain causal attention is what is due, because
the early one precedes the late one in the prompt, too.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Zigzag:
    """A prompt dealt out head and tail; the last chunks may be shorter than others, or empty."""

    num_tokens: int
    num_ranks: int

    @property
    def chunk_tokens(self) -> int:
        """Tokens of a full chunk."""
        return -(-self.num_tokens // (2 * self.num_ranks))

    def chunk(self, index: int) -> range:
        """Positions of one of the 2n chunks."""
        start = min(index * self.chunk_tokens, self.num_tokens)
        return range(start, min(start + self.chunk_tokens, self.num_tokens))

    def early(self, rank: int) -> range:
        """Positions of the first chunk that `rank` owns."""
        return self.chunk(rank)

    def late(self, rank: int) -> range:
        """Positions of the second chunk that `rank` owns; none of `early` comes after it."""
        return self.chunk(2 * self.num_ranks - 1 - rank)

    def owned(self, rank: int) -> int:
        """Tokens on `rank`: first those of `early`, then those of `late`."""
        return len(self.early(rank)) + len(self.late(rank))

    def positions(self, rank: int) -> list[int]:
        """Position in the prompt of every token on `rank`, in the order in which they lie there."""
        return [*self.early(rank), *self.late(rank)]

    def visible(self, source: int, rank: int) -> int:
        """The first so many tokens on `source` are those that queries on `rank` see."""
        if source < rank:
            return len(self.early(source)) if self.owned(rank) else 0
        return self.owned(source) if self.late(rank) else 0

    def queries(self, source: int, rank: int) -> int:
        """The last so many queries on `rank` see what is visible of `source`."""
        if not self.visible(source, rank):
            return 0
        return self.owned(rank) if source < rank else len(self.late(rank))

    @property
    def capacity(self) -> int:
        """Rows that a buffer must take on any rank, for this and for every shorter prompt."""
        return 2 * (self.num_ranks - 1) * self.chunk_tokens
