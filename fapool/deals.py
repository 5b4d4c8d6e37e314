"""How a request's KV blocks are dealt to those that keep them, by arithmetic alone.

A keeper is a number: a column of the pool, a sequence shard, or `BASE` for the ranks that hold the
model. Blocks are dealt in turn, so that growth stays balanced and the owner of a new token is
known without a message:

        pattern (0, 1, 2)       block   0 1 2 3 4 5 6
                                keeper  0 1 2 0 1 2 0       keeper 0 has blocks 0, 3, 6

A keeper numbers what it has from 0: its tokens are packed, and only its last block is part full.
Blocks may be copied to all keepers instead; then queries are shared out, not keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

BASE = -1
"""The keeper that the base ranks are, all together: each holds its own heads of what is kept."""


@dataclass(frozen=True)
class Deal:
    """Block b belongs to keeper `pattern[b % len(pattern)]`; `copied`: every keeper has it.

    What is copied is attended by `reader` alone in a decode step.
    """

    pattern: tuple[int, ...]
    copied: bool = False
    reader: int | None = None

    def __post_init__(self) -> None:
        assert self.pattern, "blocks dealt to nobody"

    @cached_property
    def keepers(self) -> tuple[int, ...]:
        """Everybody who gets a block, in order of the first."""
        return tuple(dict.fromkeys(self.pattern))

    def owner(self, block: int) -> int:
        """The keeper whose turn block `block` is: the only one, unless blocks are copied."""
        return self.pattern[block % len(self.pattern)]

    def keeps(self, block: int, keeper: int) -> bool:
        """Whether block `block` lies with `keeper`."""
        return keeper in self.keepers if self.copied else self.owner(block) == keeper

    def reads(self, keeper: int) -> bool:
        """Whether `keeper` attends over what it has in a decode step."""
        return not self.copied or keeper == self.reader

    def blocks(self, number: int, keeper: int) -> int:
        """How many of the first `number` blocks lie with `keeper`."""
        ahead = self.ahead(keeper)
        rounds, rest = divmod(number, len(self.pattern))
        return rounds * ahead[-1] + ahead[rest]

    def tokens(self, length: int, block: int, keeper: int) -> int:
        """How many of the first `length` tokens lie with `keeper`; `block` tokens a block."""
        full, rest = divmod(length, block)
        held = self.blocks(full, keeper) * block
        return held + rest if rest and self.keeps(full, keeper) else held

    def local(self, position: int, block: int, keeper: int) -> int:
        """Which of `keeper`'s tokens the token at `position` is; -1: it lies elsewhere."""
        number, rest = divmod(position, block)
        return self.blocks(number, keeper) * block + rest if self.keeps(number, keeper) else -1

    def ahead(self, keeper: int) -> list[int]:
        """How many of the first i blocks lie with `keeper`, for i = 0 .. the pattern's length."""
        return self._ahead.get(keeper) or [0] * (len(self.pattern) + 1)

    @cached_property
    def _ahead(self) -> dict[int, list[int]]:
        if self.copied:
            return {keeper: list(range(len(self.pattern) + 1)) for keeper in self.keepers}
        return {keeper: _running(self.pattern, keeper) for keeper in self.keepers}


HOME = Deal((BASE,))
"""Everything with the base."""


def weighted(weights: Sequence[tuple[int, int]]) -> Deal:
    """A deal in which each (keeper, weight) gets `weight` blocks of a round, spread evenly.

    The turns of a keeper with weight w lie at (i + 1/2) / w of a round, ties in the order given.
    """
    turns = sorted(
        ((i + 0.5) / weight, order, keeper)
        for order, (keeper, weight) in enumerate(weights)
        for i in range(weight)
    )
    return Deal(tuple(keeper for _, _, keeper in turns))


def _running(pattern: Sequence[int], keeper: int) -> list[int]:
    counts = [0]
    for owner in pattern:
        counts.append(counts[-1] + (owner == keeper))
    return counts
