"""How the keys of a batch are cut into work items that keep a whole GPU busy.

    shapes:  B rows, I items (used and unused), C candidate sizes

A program attends one item for one group of heads, so a step runs items x heads programs, `slots`
of them at a time. All items of a plan are about equally long: then waves end together, and rows
of any lengths balance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

WAVES = 8
"""Waves that a plan may have: more would only add prologues and partials to merge."""

PROLOGUE = 4.0
"""What an item costs beside its tiles, in tiles: filling the pipeline, storing the partial.
The programs beside it on its multiprocessor hide their part."""

SPREAD = 0.1
"""How much longer than the mean program the slowest takes, of the mean program's time."""


@dataclass(frozen=True, kw_only=True)
class SplitPlan:
    """Items and the rows that they are cut from, all in one int32 array `packed`.

    `packed` may as well be a tensor of torch on a device: the fields are views of it either way.
    """

    packed: np.ndarray
    num_items: int

    @property
    def row(self) -> np.ndarray:
        """Row of each item [I]."""
        return self.packed[: self.num_items]

    @property
    def start(self) -> np.ndarray:
        """First token of each item in its row [I]."""
        return self.packed[self.num_items : 2 * self.num_items]

    @property
    def stop(self) -> np.ndarray:
        """One past the last token [I]; unused items start and stop at 0."""
        return self.packed[2 * self.num_items : 3 * self.num_items]

    @property
    def first(self) -> np.ndarray:
        """Items of row b are first[b] .. first[b + 1] [B + 1]."""
        return self.packed[3 * self.num_items :]


def capacity(rows: int, *, heads: int, slots: int) -> int:
    """Items that a fixed shape of `rows` rows has to offer: what `plan_splits` can make use of."""
    return rows + -(-WAVES * slots // heads)


def packed_size(rows: int, items: int) -> int:
    """Elements of `SplitPlan.packed`."""
    return 3 * items + rows + 1


def plan_splits(
    lengths: Sequence[int],
    *,
    heads: int,
    slots: int,
    tile: int,
    capacity: int,
    resident: int = 1,
) -> SplitPlan:
    """Cut rows of `lengths` tokens at multiples of `tile` into at most `capacity` items.

    heads: programs of one item; slots: programs that the device runs at once, `resident` of them
    on each multiprocessor. Rows without tokens get no item.
    """
    tokens = np.array(lengths, dtype=np.int64)
    tiles = (tokens + (tile - 1)) // tile
    pieces = _pieces(tiles, heads / slots, resident, capacity)
    rows = len(tokens)
    packed = np.zeros(packed_size(rows, capacity), dtype=np.int32)
    plan = SplitPlan(packed=packed, num_items=capacity)
    first = plan.first
    pieces.cumsum(out=first[1:])
    used = int(first[rows])
    row = np.arange(rows).repeat(pieces)
    # The borders of a row's n items: floor(j * tiles / n), so that they differ by one tile at most.
    share, number = tiles[row], pieces[row]
    done = np.arange(used)
    done -= first[row]
    done *= share
    packed[:used] = row
    np.multiply(done // number, tile, out=packed[capacity : capacity + used], casting="unsafe")
    done += share
    done //= number
    done *= tile
    stop = packed[2 * capacity : 2 * capacity + used]
    np.minimum(done, tokens[row], out=stop, casting="unsafe")
    return plan


def _pieces(tiles: np.ndarray, heads_per_slot: float, resident: int, capacity: int) -> np.ndarray:
    """Items of each row [B], of the candidate that is done first.

    Candidates: an item size for each number of waves, and one for each cut of the longest row.
    The time of one: its waves, each as long as its mean item, and what the longest is longer.
    Memory is busy from one program per multiprocessor on: so long is a first wave, however few
    more it has. A last wave fills whole multiprocessors before it takes others: half full, it is
    as slow as a full one.
    """
    work, longest = int(tiles.sum()), int(tiles.max(initial=0))
    if not work:
        return np.zeros(len(tiles), dtype=np.int64)
    sizes = np.ceil(np.concatenate((work * heads_per_slot / _WAVES, longest / _CUTS)))
    counts = np.ceil(tiles / sizes[:, None])  # [C, B], exact: fp64 quotients of small integers
    items = counts.sum(axis=1)
    mean = work / items
    waves = items * heads_per_slot
    full = np.floor(waves)
    part = waves - full
    crowded = np.ceil(part) if resident == 1 else np.minimum(2 * part, 1.0)
    last = np.where(full > 0, crowded, np.maximum(part, 1 / resident))
    time = (full + last) * (mean + PROLOGUE / resident) + SPREAD * mean
    time += np.maximum(np.minimum(sizes, longest) - mean, 0.0)
    time[items > capacity] = np.inf
    best = int(time.argmin())
    assert items[best] <= capacity, f"{capacity} items for {np.count_nonzero(tiles)} rows"
    return counts[best].astype(np.int64)


_WAVES = np.arange(1.0, WAVES + 1)
_CUTS = np.arange(1.0, 17.0)
