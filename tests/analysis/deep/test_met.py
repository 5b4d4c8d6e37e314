"""Where spans tell too little of an exchange, what kernels say of their group splits waits."""

from pathlib import Path

import pytest

from fapool.analysis.activities.breakdown import break_down
from fapool.analysis.deep.breakdown import deep
from fapool.traces import read_folder
from tests.analysis.made_traces import Made

GPU_RUN = Path(__file__).parents[2] / "data/h200-fapool-1-1"
GRAPHS = Path(__file__).parents[2] / "data/h100-graphs-fapool-1-1"
PAIR = {"Process Group Name": "0", "Process Group Ranks": "[0, 1]"}


@pytest.mark.parametrize("shift_ns", [{}, {1: -400_000}])
def test_both_breakdowns_of_a_trace_split_its_waits_alike(shift_ns):
    traces = read_folder(GPU_RUN).traces
    by_kernels, by_spans = break_down(traces, shift_ns).steps, deep(traces, None, shift_ns)
    names = ["communication_ns", "synchronization_ns"]
    inner = slice(1, -1)  # the first and last step have other borders
    for rank in (0, 1):
        a, b = (
            rows.loc[rows["rank"] == rank, names].iloc[inner].sum()
            for rows in (by_kernels, by_spans.parted.steps)
        )
        assert a.to_numpy() == pytest.approx(b.to_numpy(), rel=0.01)
    assert "by spans: their waits are split where kernels say their group" in by_spans.words


def made(folder, *, receive_has_span: bool):
    """Rank 0 sends from 40 to 80; rank 1 waits for it from 20 to 80."""
    traces = []
    for rank, (phase, start) in enumerate((("send_query", 40), ("wait_query", 20))):
        own = Made(rank)
        own.step(0, 0, 100)
        own.span(phase, 5, 10, "communication", channel="0>1", sequence=3)
        own.launch(6 if not rank or receive_has_span else 12, 1)
        said = {"Collective name": ("send", "recv")[rank], "Dst Rank": 1 - rank} | PAIR
        own.kernel("ncclDevKernel_SendRecv", start, 80, 1, **said)
        own.launch(13, 2)
        own.kernel("ncclDevKernel_Other", 85, 95, 2)  # of no span, and says nothing
        traces.append(own.read(folder))
    return traces


@pytest.mark.parametrize("receive_has_span", [True, False])
def test_a_receive_without_a_span_waits_as_one_with_a_span(tmp_path, receive_has_span):
    found = deep(made(tmp_path, receive_has_span=receive_has_span))
    assert found.met.matched == 2
    sender, receiver = found.parted.steps.sort_values("rank").to_dict("records")
    assert (sender["communication_ns"], sender["synchronization_ns"]) == (50, 0)
    assert (receiver["communication_ns"], receiver["synchronization_ns"]) == (50, 20)
    assert bool(found.words) != receive_has_span


def test_kernels_are_not_asked_where_all_have_spans():
    assert deep(read_folder(GRAPHS).traces).met is None


def test_where_no_kernel_met_another_nothing_is_promised(tmp_path):
    sender, _ = made(tmp_path, receive_has_span=True)
    found = deep([sender])
    assert found.met.matched == 0
    assert "a wait for these alone counts as communication" in found.words
