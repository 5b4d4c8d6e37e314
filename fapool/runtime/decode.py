"""Decode steps of one rank in a fixed shape: a frame per bucket, and the plan's body over it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

from torch import Tensor

from fapool.deals import Deal
from fapool.forecast.memory import widest_row
from fapool.phases import Phase
from fapool.runtime.batch import split
from fapool.runtime.frames import Frame, buckets
from fapool.runtime.graphs import Graphs
from fapool.runtime.kvcache import KVCache
from fapool.runtime.seat import Seat
from fapool.schedule import Segment
from fapool.spec import RunSpec
from fapool.workload import Request


class Decode:
    """Fills a frame for each step and runs a body over it, from a graph where there can be one."""

    def __init__(
        self,
        seat: Seat,
        spec: RunSpec,
        requests: Sequence[Request],
        cache: KVCache,
        deal_of: Callable[[int], Deal],
        kept: Sequence[Tensor] = (),
    ) -> None:
        """`deal_of(request)`: where its keys lie now. `kept`: see `Graphs.run`."""
        self._seat, self._cache, self._deal_of, self._kept = seat, cache, deal_of, kept
        self._width = max(1, widest_row(spec, requests, seat.place.keeper))
        self._nobody = max(request.id for request in requests) + 1
        self._buckets = buckets(spec.workload.batch)
        self._frames: dict[tuple[int, int], Frame] = {}  # by part and size
        self._graphs = Graphs(seat.device, seat.recorder, enabled=spec.graphs and seat.capturable)

    def run(
        self,
        segments: Sequence[Segment],
        body: Callable[..., Any],
        shape: tuple[Hashable, ...] = (),
        parts: int = 1,
    ) -> Any:
        """What `body(frames, *shape)` returns; the frames say that `segments` are decoded.

        `shape` is all that the body's course depends on, and `parts` the frames that the batch is
        cut into; both the same on every rank of the plan.
        """
        with self._seat.span(Phase.PLAN_STEP):
            pieces = split(segments, parts)
            frames = [self._frame(number, len(piece)) for number, piece in enumerate(pieces)]
            for frame, piece in zip(frames, pieces, strict=True):
                frame.fill(piece, self._deal_of)
        # A micro-batch has graphs of its own: their results outlive the next one's replay.
        key = (self._seat.span.micro_batch, *(frame.size for frame in frames), *shape)
        return self._graphs.run(key, lambda: body(frames, *shape), self._kept)

    def size(self, rows: int) -> int:
        """Rows of the frame that serves a batch of `rows`."""
        return next(bucket for bucket in self._buckets if bucket >= rows)

    @property
    def held_bytes(self) -> int:
        """Of what graphs keep."""
        return self._graphs.held_bytes

    def reseat(self) -> None:
        """Somebody's deal has changed."""
        for frame in self._frames.values():
            frame.reseat()

    def close(self) -> None:
        """Drop the graphs."""
        self._graphs.close()

    def _frame(self, part: int, rows: int) -> Frame:
        at = part, (size := self.size(rows))
        if at not in self._frames:
            self._frames[at] = Frame(
                rows=size,
                width=self._width,
                cache=self._cache,
                keeper=self._seat.place.keeper,
                nobody=self._nobody,
                splitter=self._seat.splitter(size),
                hosted=not self._graphs.enabled,
            )
        return self._frames[at]
