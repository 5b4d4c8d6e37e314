"""Records of a graph's replay find their nodes: by ids, by order, or by names."""

import numpy as np
import pandas as pd
import pytest

from fapool.analysis.deep.nodes import place

NODES = [
    ("kernel", "norm"),
    ("kernel", "gemm"),
    ("memcpy", ""),
    ("kernel", "nccl"),
    ("kernel", "gemm"),
    ("memset", ""),
]


def records(rows: list[tuple], nodes: list[int] | None = None) -> pd.DataFrame:
    """(name, kind, stream, start_ns) each, and the ids of their nodes."""
    found = pd.DataFrame(rows, columns=["name", "kind", "stream", "start_ns"])
    return found.assign(graph_node=nodes or -1)


SERIAL = [
    ("norm", "kernel", 7, 10),
    ("gemm", "kernel", 7, 20),
    ("memcpy128", "kernel", 7, 30),
    ("nccl", "kernel", 7, 40),
    ("gemm", "kernel", 7, 50),
    ("Memset (Device)", "memset", 7, 60),
]


@pytest.mark.parametrize("seed", range(5))
def test_on_one_stream_the_order_of_start_is_that_of_capture(seed):
    order = np.random.default_rng(seed).permutation(len(SERIAL))
    found, doubt = place(records([SERIAL[row] for row in order]), NODES)
    assert (found == order).all()
    assert doubt == ""


def test_a_side_stream_is_told_by_the_names_that_were_captured():
    rows = list(SERIAL)
    rows[3] = ("nccl", "kernel", 9, 25)  # runs beside the gemm, ahead of the copy
    found, doubt = place(records(rows), NODES)
    assert found.tolist() == list(range(6))
    assert doubt == ""


def test_ids_of_nodes_decide_where_the_trace_has_them():
    rows = [("gemm", "kernel", 9, 10), ("gemm", "kernel", 7, 20)]
    nodes = [("kernel", "gemm"), ("kernel", "gemm")]
    assert place(records(rows, [5, 4]), nodes)[0].tolist() == [1, 0]
    assert place(records(rows), nodes)[0].tolist() == [0, 1]


def test_names_unlike_those_captured_are_told_and_the_order_is_taken():
    rows = [("elsewise", "kernel", 7, 10), *SERIAL[1:]]
    found, doubt = place(records(rows), NODES)
    assert found.tolist() == list(range(6))
    assert "names" in doubt


def test_a_kernel_whose_name_the_driver_did_not_tell_agrees_with_any():
    found, doubt = place(records(SERIAL), [(kind, "") for kind, _ in NODES])
    assert found.tolist() == list(range(6))
    assert doubt == ""


@pytest.mark.parametrize(
    ("rows", "nodes", "why"),
    [
        (SERIAL[:-1], NODES, "5 records where 6 nodes"),
        ([*SERIAL[:3], ("x", "kernel", 9, 25), *SERIAL[4:]], NODES, "names"),
        ([*SERIAL[:3], ("nccl", "kernel", 9, 25), *SERIAL[4:]], [("kernel", "")] * 6, "unknown"),
        (  # the second stream runs b, then a: no capture has this order and both names twice
            [("b", "kernel", 7, 1), ("b", "kernel", 9, 2), ("a", "kernel", 9, 3)],
            [("kernel", "a"), ("kernel", "b"), ("kernel", "b")],
            "do not tell them apart",
        ),
    ],
)
def test_what_cannot_be_told_apart_is_refused(rows, nodes, why):
    found, doubt = place(records(rows), nodes)
    assert found is None
    assert why in doubt
