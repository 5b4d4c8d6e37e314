"""Decode steps of one rank in a fixed shape: a frame per bucket, and the plan's body over it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

from torch import Tensor

from fapool.deals import Deal
from fapool.forecast.memory import widest_row
from fapool.phases import Phase
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
        self._frames: dict[int, Frame] = {}
        self._graphs = Graphs(seat.device, seat.recorder, enabled=spec.graphs and seat.capturable)

    def run(
        self, segments: Sequence[Segment], body: Callable[..., Any], shape: tuple[Hashable, ...]
    ) -> Any:
        """What `body(frame, *shape)` returns, with the frame saying that `segments` are decoded.

        `shape` is all that the body's course depends on; the same on every rank of the plan.
        """
        with self._seat.span(Phase.PLAN_STEP):
            frame = self._frame(len(segments))
            frame.fill(segments, self._deal_of)
        key = (frame.size, *shape)
        return self._graphs.run(key, lambda: body(frame, *shape), self._kept)

    def size(self, rows: int) -> int:
        """Rows of the frame that serves a batch of `rows`."""
        return next(bucket for bucket in self._buckets if bucket >= rows)

    def close(self) -> None:
        """Drop the graphs."""
        self._graphs.close()

    def _frame(self, rows: int) -> Frame:
        size = self.size(rows)
        if size not in self._frames:
            self._frames[size] = Frame(
                rows=size,
                width=self._width,
                cache=self._cache,
                keeper=self._seat.place.keeper,
                nobody=self._nobody,
                splitter=self._seat.splitter(size),
                hosted=not self._graphs.enabled,
            )
        return self._frames[size]
