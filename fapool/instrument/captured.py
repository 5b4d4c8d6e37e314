"""Which nodes of a captured graph belong to which span: what a trace of its replays is read by."""

from __future__ import annotations

from typing import Any

import torch

from fapool.instrument.nodes import CapturedNodes, Node, NodesUnknown
from fapool.instrument.ranges import Labels

NOBODY: Labels = ("", -1, -1, "", -1, 0)
"""Labels of what was captured outside of all spans."""


class GraphNodes:
    """The nodes of one graph in order of capture, in runs that share an owner.

    A nested span has its own nodes; those beside it are the outer one's. Where the driver does not
    tell, `note` says why and there are no runs.
    """

    def __init__(self, number: int, *, sampled: bool) -> None:
        self.number, self.sampled, self.note = number, sampled, ""
        self.runs: list[tuple[Labels, list[Node]]] = []
        self._open: list[Labels] = [NOBODY]
        self._nodes: CapturedNodes | None = None

    def enter(self, labels: Labels) -> None:
        """A span begins here."""
        self._take()
        self._open.append(labels)

    def leave(self) -> None:
        """The innermost span ends here."""
        self._take()
        self._open.pop()

    def end(self) -> None:
        """The capture ends here."""
        self._take()
        self._nodes = None

    def as_json(self) -> dict[str, Any]:
        """One line of `graphs.<rank>.jsonl`."""
        runs = [_run(labels, nodes) for labels, nodes in self.runs]
        return {"graph": self.number, "sampled": self.sampled, "note": self.note, "runs": runs}

    def _take(self) -> None:
        """What was captured since the last border belongs to the innermost span."""
        if self.note:
            return
        try:
            if self._nodes is None:
                self._nodes = CapturedNodes()
            new = self._nodes.new(torch.cuda.current_stream().cuda_stream)
        except NodesUnknown as error:
            self.runs, self.note = [], f"nodes are unknown: {error}"
            return
        if new:
            self.runs.append((self._open[-1], new))


class Captures:
    """The graphs that one rank captures while `wanted`, numbered in that order."""

    def __init__(self) -> None:
        self.wanted = False
        self.graphs: list[GraphNodes] = []

    def new(self, *, sampled: bool) -> GraphNodes | None:
        """For a graph that is captured now; None where nobody will ask."""
        if not self.wanted:
            return None
        self.graphs.append(GraphNodes(len(self.graphs), sampled=sampled))
        return self.graphs[-1]


def _run(labels: Labels, nodes: list[Node]) -> dict[str, Any]:
    phase, layer, micro_batch, channel, sequence, num_bytes = labels
    several = isinstance(channel, tuple)
    return {
        "phase": phase,
        "layer": layer,
        "micro_batch": micro_batch,
        "channels": list(channel) if several else [channel],
        "sequence": sequence,
        "bytes": list(num_bytes) if several else [num_bytes],
        "nodes": [list(node) for node in nodes],
    }
