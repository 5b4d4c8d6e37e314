"""What outside profilers see of a span: an NVTX range, and a range in torch's own traces."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch

from fapool.phases import REPLAY, Category, Phase

try:
    import nvtx
except ImportError:  # nothing to be seen by then; spans are recorded all the same
    nvtx = None

DOMAIN = "fapool"
MAX_CACHED = 4096
COLORS = {
    Category.COMPUTE: "green",
    Category.COMMUNICATION: "blue",
    Category.SYNCHRONIZATION: "orange",
    Category.MANAGEMENT: "purple",
    Category.IDLE: "white",
}

Labels = tuple[str, int, int, str | tuple[str, ...], int, int | tuple[int, ...]]
"""phase, layer, micro-batch, channel, sequence, bytes: atoms, so garbage collection skips them.

Of a span that serves several exchanges at once, channel and bytes hold one value for each.
"""

CATEGORY = {phase.value: phase.category for phase in Phase}


def apart(labels: Labels) -> list[Labels]:
    """The labels of each exchange that a span served; of one that served none, its own."""
    phase, layer, micro_batch, channel, sequence, num_bytes = labels
    if not isinstance(channel, tuple):
        return [labels]
    pairs = zip(channel, num_bytes, strict=True)
    return [(phase, layer, micro_batch, name, sequence, size) for name, size in pairs]


class NvtxRanges:
    """Nested ranges of our own NVTX domain: named by phase, with category and a payload.

    The payload is the layer, or the bytes of a span that belongs to no layer. Attributes are built
    once per (phase, payload), so that a push and its pop cost about 0.1 us together.
    """

    __slots__ = ("_attributes", "_domain", "pop")

    def __init__(self, domain: Any) -> None:
        self._domain = domain
        self._attributes: dict[tuple[str, int], Any] = {}
        self.pop: Callable[[], None] = domain.pop_range

    def push(self, labels: Labels) -> None:
        """Open a range; `pop` closes the innermost."""
        phase, layer = labels[0], labels[1]
        payload = layer if layer >= 0 or type(labels[5]) is tuple else labels[5]
        attributes = self._attributes.get((phase, payload))
        if attributes is None:
            attributes = self._build(phase, payload)
        self._domain.push_range(attributes)

    def _build(self, phase: str, payload: int) -> Any:
        if len(self._attributes) >= MAX_CACHED:  # payloads of all sizes: do not grow for ever
            self._attributes.clear()
        category = CATEGORY[phase]
        built = self._domain.get_event_attributes(phase, COLORS[category], category.value, payload)
        self._attributes[phase, payload] = built
        return built


def nvtx_ranges() -> NvtxRanges | None:
    """Ranges for the NVTX tool that this process was started under; None under none."""
    if nvtx is None:
        return None
    domain = nvtx.get_domain(DOMAIN)
    return None if type(domain).__name__ == "DummyDomain" else NvtxRanges(domain)


def torch_range(labels: Labels) -> AbstractContextManager[Any]:
    """A range of torch.profiler's trace that carries the labels among its args.

    No label is called `stream`: readers of traces take whatever has that for a kernel.
    """
    phase, layer, micro_batch, channel, sequence, num_bytes = labels
    if _fast_range is None:
        return torch.profiler.record_function(phase)
    values: dict[str, Any] = {"category": CATEGORY[phase].value}
    if layer >= 0:
        values["layer"] = layer
    if micro_batch >= 0:
        values["micro_batch"] = micro_batch
    if isinstance(channel, tuple):
        channel, num_bytes = ",".join(channel), sum(num_bytes)
    if channel:
        values |= {"channel": channel, "sequence": sequence, "bytes": num_bytes}
    return _fast_range(phase, (), values)


def replay_range(graph: int) -> AbstractContextManager[Any]:
    """A range of torch.profiler's trace around the replay of a graph, by its number.

    Its phase and category are none of ours: what it launches is parted by the graph's own spans.
    """
    if _fast_range is None:
        return torch.profiler.record_function(REPLAY)
    return _fast_range(REPLAY, (), {"category": REPLAY, "graph": graph})


_fast_range = getattr(torch._C._profiler, "_RecordFunctionFast", None)
