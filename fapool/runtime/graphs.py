"""Captured CUDA graphs of the bodies of decode steps; where there is no device, plain calls.

A body reads its inputs at fixed addresses and may be run twice on the same inputs, but for what
is named in `kept`. Every rank of a plan captures under the same keys in the same steps, so that
messages inside a body meet their counterparts in the warm-up and in every replay.

Of each body there are two graphs: one plain, one with an event at the borders of its spans, which
is replayed on the steps that the recorder samples. Each event costs about 4 us on an H200. A step
in which something is captured is not sampled: its length says nothing of others.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from fapool.instrument.ranges import replay_range
from fapool.instrument.recorder import Recorder

Body = Callable[[], Any]


class Graphs:
    """The graphs of one plan on one rank. Drop them (`close`) before their process groups end."""

    def __init__(self, device: torch.device, recorder: Recorder, *, enabled: bool) -> None:
        self._device, self._recorder, self.enabled = device, recorder, enabled
        self._plain: dict[Hashable, tuple[torch.cuda.CUDAGraph, Any, int]] = {}
        self._sampled: dict[Hashable, tuple[torch.cuda.CUDAGraph, Any, int, list]] = {}
        self._pool = torch.cuda.graph_pool_handle() if enabled else None

    @property
    def held_bytes(self) -> int:
        """Of what the bodies returned: it stays where it is, for the next replay."""
        graphs = (*self._plain.values(), *self._sampled.values())
        found = {id(t): t for _, result, *_ in graphs for t in _tensors(result)}
        return sum(tensor.nbytes for tensor in found.values())

    def run(self, key: Hashable, body: Body, kept: Sequence[Tensor] = ()) -> Any:
        """What `body` returns: after a replay, the same tensors with new contents."""
        if not self.enabled:
            return body()
        new = key not in self._plain
        if new:
            self._capture(key, body, kept)
        if self._recorder.samples_now and not new and key in self._sampled:
            graph, result, number, spans = self._sampled[key]
        else:
            (graph, result, number), spans = self._plain[key], None
        if self._recorder.profiling:
            with replay_range(number):
                graph.replay()
        else:
            graph.replay()
        self._recorder.replayed(spans)
        return result

    def close(self) -> None:
        """Let go of all graphs; does not wait for the device when an exception is under way.

        It may then wait for a peer that will not come.
        """
        if self._plain and sys.exception() is None:
            torch.cuda.synchronize(self._device)
        for graph, *_ in (*self._plain.values(), *self._sampled.values()):
            graph.reset()
        self._plain.clear()
        self._sampled.clear()

    def _capture(self, key: Hashable, body: Body, kept: Sequence[Tensor]) -> None:
        before = [tensor.clone() for tensor in kept]
        with self._recorder.paused():
            body()
            torch.cuda.synchronize(self._device)
        for tensor, values in zip(kept, before, strict=True):
            tensor.copy_(values)
        self._plain[key] = self._record(body, [])
        if self._recorder.enabled:
            spans: list = []
            self._sampled[key] = (*self._record(body, spans, sampled=True), spans)

    def _record(self, body: Body, spans: list, *, sampled: bool = False):
        """A graph, what its body returned, and its number among those whose nodes are known."""
        graph = torch.cuda.CUDAGraph()
        nodes = self._recorder.captures.new(sampled=sampled)
        with (
            torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"),
            self._recorder.capturing(spans if sampled else None, nodes),
        ):
            result = body()
        return graph, result, nodes.number if nodes else -1


def _tensors(result: Any) -> Iterator[Tensor]:
    if isinstance(result, Tensor):
        yield result
    elif isinstance(result, tuple | list):
        for part in result:
            yield from _tensors(part)
