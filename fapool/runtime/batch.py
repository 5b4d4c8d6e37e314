"""A step's segments as tensors: made once per step and micro-batch, read by every layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from fapool.schedule import Segment


@dataclass(frozen=True)
class Batch:
    """Packed query tokens: segment i takes rows [starts[i], starts[i] + segments[i].length)."""

    kind: str
    segments: tuple[Segment, ...]
    device: torch.device
    starts: tuple[int, ...] = field(init=False)
    positions: Tensor = field(init=False)  # [T], of each token in its request

    def __post_init__(self) -> None:
        starts, positions = [], []
        for segment in self.segments:
            starts.append(len(positions))
            positions.extend(range(segment.start, segment.end))
        object.__setattr__(self, "starts", tuple(starts))
        object.__setattr__(self, "positions", self.index(positions))

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

    def index(self, values: Sequence[int]) -> Tensor:
        """Whole numbers as an index on the batch's device."""
        return torch.tensor(values, dtype=torch.int64).to(self.device, non_blocking=True)


def split(segments: Sequence[Segment], parts: int) -> list[tuple[Segment, ...]]:
    """At most `parts` micro-batches of consecutive segments, as equal in number as can be."""
    parts = min(parts, len(segments))
    borders = [len(segments) * part // parts for part in range(parts + 1)]
    return [tuple(segments[a:b]) for a, b in pairwise(borders)]
