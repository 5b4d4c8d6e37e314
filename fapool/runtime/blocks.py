"""Block numbers of a cache, free or reserved, as gaps on a line.

invariant: free blocks + reserved blocks = all blocks, no block twice; gaps never touch
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Sequence
from itertools import pairwise


class BlockPool:
    """Reserves and frees in time that grows with the gaps, not with the blocks."""

    def __init__(self, blocks: int) -> None:
        self.blocks = blocks
        self._gaps: list[tuple[int, int]] = [(0, blocks)] if blocks else []  # [start, stop), sorted
        self._free = blocks

    def __len__(self) -> int:
        return self._free

    def reserve(self, number: int) -> list[int]:
        """`number` blocks: the first gap that is wide enough, else the lowest there are."""
        assert number <= self._free, f"{number} blocks wanted, {self._free} free"
        self._free -= number
        for index, (start, stop) in enumerate(self._gaps):
            if stop - start >= number:
                self._gaps[index : index + 1] = [(start + number, stop)] * (start + number < stop)
                return list(range(start, start + number))
        taken: list[int] = []
        for index, (start, stop) in enumerate(self._gaps):
            reach = min(stop, start + number - len(taken))
            taken += range(start, reach)
            if len(taken) == number:
                self._gaps[: index + 1] = [(reach, stop)] * (reach < stop)
                break
        return taken

    def free(self, blocks: Sequence[int]) -> None:
        """Take blocks back."""
        self._free += len(blocks)
        for start, stop in _runs(sorted(blocks)):
            self._give(start, stop)

    def _give(self, start: int, stop: int) -> None:
        at = bisect(self._gaps, (start, stop))
        before = self._gaps[at - 1] if at else None
        after = self._gaps[at] if at < len(self._gaps) else None
        assert not before or before[1] <= start, "block freed twice"
        assert not after or stop <= after[0], "block freed twice"
        first, last = at, at
        if before and before[1] == start:
            first, start = at - 1, before[0]
        if after and after[0] == stop:
            last, stop = at + 1, after[1]
        self._gaps[first:last] = [(start, stop)]


def _runs(blocks: Sequence[int]) -> list[tuple[int, int]]:
    """Sorted numbers as half-open runs."""
    borders = [i for i, (a, b) in enumerate(pairwise(blocks), start=1) if b != a + 1]
    cuts = [0, *borders, len(blocks)]
    return [(blocks[a], blocks[b - 1] + 1) for a, b in pairwise(cuts) if a < b]
