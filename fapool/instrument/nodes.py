"""The nodes of a CUDA graph while it is captured, by the driver's own calls.

The order in which nodes are captured is all that later tells which kernel of a replay belongs to
which span: in a trace, the kernels of one replay bear one correlation id.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from functools import cache
from typing import Any

Node = tuple[str, str]
"""kind (one of `KINDS`) and, of a kernel, its name as profilers show it; "" where unknown."""

KINDS = {0: "kernel", 1: "memcpy", 2: "memset"}
"""Types of nodes that leave a record in a trace; events, host calls and the like leave none."""

CHILD_GRAPH, CONDITIONAL = 4, 13
_ACTIVE = 1
_POINTER = ctypes.c_void_p
_SIZE = ctypes.c_size_t


class NodesUnknown(Exception):
    """This driver does not tell what is captured; the message says why."""


class _KernelParams(ctypes.Structure):
    """`CUDA_KERNEL_NODE_PARAMS_v2` of cuda.h."""

    _fields_ = (
        ("function", _POINTER),
        ("sizes", ctypes.c_uint * 7),  # grid, block, shared memory
        ("parameters", _POINTER),
        ("extra", _POINTER),
        ("kernel", _POINTER),
        ("context", _POINTER),
    )


class CapturedNodes:
    """Nodes that a capture adds, asked for in turn; one object for one capture.

    Raises:
        NodesUnknown: the driver is missing, or lacks a call.
    """

    def __init__(self) -> None:
        self._driver = _driver()
        self._seen: set[int] = set()

    def new(self, stream: int) -> list[Node]:
        """What the capture on `stream` has added since the last call, in order of capture.

        Raises:
            NodesUnknown: nothing is captured there, or a node holds nodes of its own.
        """
        added = [node for node in self._nodes(stream) if node not in self._seen]
        self._seen.update(added)
        return [found for node in added if (found := self._tell(node))]

    def _nodes(self, stream: int) -> list[int]:
        graph, count = self._graph(stream), _SIZE()
        self._call("cuGraphGetNodes", graph, None, ctypes.byref(count))
        nodes = (_POINTER * count.value)()
        if count.value:
            self._call("cuGraphGetNodes", graph, nodes, ctypes.byref(count))
        return [node for node in nodes[: count.value] if node is not None]

    def _graph(self, stream: int) -> _POINTER:
        status, number, graph = ctypes.c_int(), ctypes.c_ulonglong(), _POINTER()
        before, edges, count = _POINTER(), _POINTER(), _SIZE()
        outs = [ctypes.byref(out) for out in (status, number, graph, before, edges, count)]
        # Asked without edges, a capture with programmatic launches is an error.
        self._call("cuStreamGetCaptureInfo_v3", _POINTER(stream), *outs)
        if status.value != _ACTIVE or not graph.value:
            raise NodesUnknown(f"no capture on the stream (status {status.value})")
        return graph

    def _tell(self, node: int) -> Node | None:
        kind = ctypes.c_int(-1)
        self._call("cuGraphNodeGetType", _POINTER(node), ctypes.byref(kind))
        if kind.value in (CHILD_GRAPH, CONDITIONAL):
            raise NodesUnknown(f"a node of type {kind.value} holds others")
        if kind.value not in KINDS:
            return None
        return KINDS[kind.value], self._name(node) if kind.value == 0 else ""

    def _name(self, node: int) -> str:
        """The name of a kernel node's kernel; "" where this driver does not say."""
        params = _KernelParams()
        try:
            self._call("cuGraphKernelNodeGetParams_v2", _POINTER(node), ctypes.byref(params))
        except NodesUnknown:
            return ""
        handles = {"cuKernelGetName": params.kernel, "cuFuncGetName": params.function}
        for call, handle in handles.items():
            text = ctypes.c_char_p()
            try:
                if handle:
                    self._call(call, ctypes.byref(text), _POINTER(handle))
            except NodesUnknown:
                continue
            if text.value:
                return demangled(text.value.decode(errors="replace"))
        return ""

    def _call(self, name: str, *arguments: Any) -> None:
        try:
            function = getattr(self._driver, name)
        except AttributeError:
            raise NodesUnknown(f"the driver has no {name}") from None
        function.restype = ctypes.c_int
        if error := function(*arguments):
            raise NodesUnknown(f"{name} gave error {error}")


@cache
def _driver() -> ctypes.CDLL:
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise NodesUnknown(f"no driver: {error}") from None


@cache
def demangled(name: str) -> str:
    """A C++ symbol as profilers print it; anything else as it is."""
    if not name.startswith("_Z"):
        return name
    for library in _runtimes():
        status = ctypes.c_int(-1)
        library.__cxa_demangle.restype = _POINTER
        found = library.__cxa_demangle(name.encode(), None, None, ctypes.byref(status))
        if found:  # allocated for us: a few names of a process, kept with it
            return ctypes.string_at(found).decode(errors="replace")
    return name


def _runtimes() -> Iterator[ctypes.CDLL]:
    try:
        library = ctypes.CDLL("libstdc++.so.6")
    except OSError:
        return
    if hasattr(library, "__cxa_demangle"):
        yield library
