"""A step's segments as tensors: made once per step and micro-batch, read by every layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from fapool.schedule import Segment

Numbers = Sequence[int] | np.ndarray
Selection = slice | Tensor
"""What picks rows of a tensor; a slice copies nothing."""


@dataclass(frozen=True)
class Batch:
    """Packed query tokens: segment i takes rows [starts[i], starts[i] + segments[i].length)."""

    kind: str
    segments: tuple[Segment, ...]
    device: torch.device
    starts: tuple[int, ...] = field(init=False)
    positions: Tensor = field(init=False)  # [T], of each token in its request

    def __post_init__(self) -> None:
        ends = np.cumsum([0, *(segment.length for segment in self.segments)]).tolist()
        positions = [np.arange(segment.start, segment.end) for segment in self.segments]
        object.__setattr__(self, "starts", tuple(ends[:-1]))
        object.__setattr__(self, "positions", self.index(np.concatenate(positions)))

    @property
    def tokens(self) -> int:
        """Query tokens."""
        return len(self.positions)

    @property
    def emitting(self) -> list[int]:
        """Rows whose hidden state gives a token."""
        pairs = zip(self.starts, self.segments, strict=True)
        return [start + segment.length - 1 for start, segment in pairs if segment.emits]

    @property
    def emitters(self) -> list[int]:
        """Requests that get a token, in the order of `emitting`."""
        return [segment.request for segment in self.segments if segment.emits]

    def index(self, values: Numbers) -> Tensor:
        """Whole numbers as an index on the batch's device."""
        return indices([values], self.device)[0]

    def selections(self, lists: Sequence[np.ndarray]) -> list[Selection]:
        """Rows that rise as what selects them; all that are no slices are copied as one."""
        found: list[Selection] = [_as_slice(rows) for rows in lists]
        rest = [i for i, rows in enumerate(found) if rows is None]
        for i, rows in zip(rest, indices([lists[i] for i in rest], self.device), strict=True):
            found[i] = rows
        return found


def indices(lists: Sequence[Numbers], device: torch.device) -> list[Tensor]:
    """Lists of whole numbers on a device, copied as one; the host does not wait for the copy."""
    if not lists:
        return []
    arrays = [np.asarray(values, dtype=np.int64) for values in lists]
    whole = torch.from_numpy(np.concatenate(arrays))
    if device.type == "cuda":
        whole = whole.pin_memory().to(device, non_blocking=True)
    return list(whole.split([len(array) for array in arrays]))


def _as_slice(rows: np.ndarray) -> slice | None:
    if not len(rows):
        return slice(0, 0)
    first, last = int(rows[0]), int(rows[-1])
    return slice(first, last + 1) if last - first == len(rows) - 1 else None


def split(segments: Sequence[Segment], parts: int) -> list[tuple[Segment, ...]]:
    """At most `parts` micro-batches of consecutive segments, as equal in number as can be."""
    parts = min(parts, len(segments))
    borders = [len(segments) * part // parts for part in range(parts + 1)]
    return [tuple(segments[a:b]) for a, b in pairwise(borders)]


def pieces(segments: Sequence[Segment], rows: int) -> list[tuple[Segment, ...]]:
    """Consecutive tokens in pieces of `rows`, the last of what is left; a request may be in many.

    Only the piece with a segment's end emits what the segment emits.
    """
    found: list[list[Segment]] = [[]]
    room = rows
    for segment in segments:
        start = segment.start
        while start < segment.end:
            if not room:
                found.append([])
                room = rows
            length = min(room, segment.end - start)
            last = start + length == segment.end
            found[-1].append(Segment(segment.request, start, length, segment.emits and last))
            start += length
            room -= length
    return [tuple(piece) for piece in found]
