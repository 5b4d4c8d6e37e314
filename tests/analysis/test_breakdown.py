"""The partition of a step, against a count of milliseconds, and on a run."""

import itertools
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fapool.analysis.breakdown import ORDER, PARTS, breakdown
from fapool.analysis.load import load
from fapool.phases import EVENTS, Category, Phase
from fapool.store import Run
from tests.synthetic import EPOCH_NS, write_run

GRAPHS = Path(__file__).parents[1] / "data/h100-graphs-fapool-1-1"

C, M, S, G, IDLE = ORDER
DECLARED = {C: Phase.FFN, S: Phase.STEP_BARRIER, G: Phase.LEASE}


def tables(spans, borders, ranks=(0, 1)):
    """Tables of one repeat: spans (rank, phase, start, end, channel) and borders in grid units."""
    events = pd.DataFrame(spans, columns=["rank", "phase", "start_ns", "end_ns", "channel"])
    events["category"] = [str(Phase(phase).category) for phase in events["phase"]]
    events["phase"] = [str(phase) for phase in events["phase"]]
    events[["start_ns", "end_ns"]] = events[["start_ns", "end_ns"]].astype("int64") + EPOCH_NS
    events = events.assign(repeat=0, step=0, layer=0, micro_batch=0, sequence=7, bytes=0)
    edges = np.array(borders, np.int64) + EPOCH_NS
    steps = pd.concat(
        pd.DataFrame(
            {"repeat": 0, "rank": rank, "step": range(len(edges) - 1), "role": "base"}
            | {"kind": "decode", "leased": 0, "start_ns": edges[:-1], "end_ns": edges[1:]}
            | {"method": "host clock"}
        )
        for rank in ranks
    )
    return SimpleNamespace(events=events[EVENTS.names], steps=steps.reset_index(drop=True))


def by_hand(spans, borders) -> list[dict[str, int]]:
    """For rank 0, every unit of every step goes to the first category that covers it."""
    found = []
    for start, end in itertools.pairwise(borders):
        counts = dict.fromkeys(PARTS, 0)
        for unit in range(start, end):
            there = {cat for cat, a, b in spans if a <= unit < b}
            counts[f"{next((c for c in ORDER if c in there), IDLE)}_ns"] += 1
        found.append(counts)
    return found


few = settings(max_examples=30)  # each is milliseconds of pandas
span = st.tuples(st.sampled_from([C, S, G]), st.integers(0, 40), st.integers(0, 12))
borders = st.lists(st.integers(3, 45), min_size=2, max_size=5).map(sorted)
exchange = st.tuples(st.integers(0, 40), st.integers(0, 12), st.integers(0, 40))


@few
@given(st.lists(span, max_size=10), borders, exchange)
def test_the_partition_equals_a_count_of_units(spans, borders, exchange):
    start, length, post = exchange
    rows = [(0, DECLARED[c], a, a + d, "") for c, a, d in spans]
    rows += [(1, Phase.SEND_QUERY, post, post + 1, "1>0")]
    rows += [(0, Phase.WAIT_QUERY, start, start + length, "1>0")]
    found = breakdown(tables(rows, borders)).steps.query("rank == 0")
    arrival = min(max(post, start), start + length)
    spans = [(c, a, a + d) for c, a, d in spans]
    spans += [(S, start, arrival), (M, arrival, start + length)]
    assert found[PARTS].to_dict("records") == by_hand(spans, borders)


def test_a_host_that_waits_for_its_device_waits_for_what_that_does():
    """Device: ffn 0-10, waits 10-30 for a message that is posted at 25. Host: waits 5-40."""
    rows = [(0, Phase.DEVICE_SYNC, 5, 40, ""), (0, Phase.FFN, 0, 10, "")]
    rows += [(0, Phase.WAIT_QUERY, 10, 30, "1>0"), (1, Phase.SEND_QUERY, 25, 26, "1>0")]
    rows += [(0, Phase.LEASE, 38, 45, "")]
    found = breakdown(tables(rows, [0, 50]))
    here = found.shares[found.shares["rank"] == 0]
    assert dict(zip(here["phase"] + " " + here["category"], here["ns"], strict=True)) == {
        "ffn compute": 10,
        "wait_query synchronization": 15,
        "wait_query communication": 5,
        "device_sync synchronization": 10,
        "lease management": 5,
    }


@few
@given(st.lists(span, max_size=10), borders, exchange)
def test_hidden_communication_is_computation_while_an_exchange_is_in_flight(
    spans, borders, exchange
):
    start, length, post = exchange
    rows = [(0, DECLARED[c], a, a + d, "") for c, a, d in spans]
    rows += [(0, Phase.SEND_QUERY, post, post + 1, "0>1")]
    rows += [(1, Phase.WAIT_QUERY, start, start + length, "0>1")]
    found = breakdown(tables(rows, borders)).steps.query("rank == 0")
    computes = {u for c, a, d in spans if c is C for u in range(a, a + d)}
    hidden = computes & set(range(post, start + length))
    bins = itertools.pairwise(borders)
    assert found["hidden_ns"].tolist() == [len(hidden & set(range(a, b))) for a, b in bins]


@few
@given(
    st.lists(span, max_size=6),
    borders,
    st.tuples(st.integers(0, 40), st.integers(0, 12)),
    st.lists(st.integers(0, 40), min_size=2, max_size=3),
)
def test_a_wait_for_several_senders_is_synchronization_until_the_last(spans, borders, wait, posts):
    start, end = wait[0], sum(wait)
    rows = [(0, DECLARED[c], a, a + d, "") for c, a, d in spans]
    for sender, post in enumerate(posts, 1):
        rows += [(sender, Phase.SEND_PARTIALS, post, post + 1, f"{sender}>0")]
        rows += [(0, Phase.WAIT_PARTIALS, start, end, f"{sender}>0")]
    found = breakdown(tables(rows, borders)).steps.query("rank == 0")
    arrival = min(max(*posts, start), end)
    spans = [(c, a, a + d) for c, a, d in spans]
    spans += [(S, start, arrival), (M, arrival, end)]
    assert found[PARTS].to_dict("records") == by_hand(spans, borders)


def test_a_run_adds_up_at_every_level(tmp_path):
    found = breakdown(load(write_run(tmp_path)))
    assert (found.steps[PARTS].sum(axis=1) == found.steps["wall_ns"]).all()
    by_category = found.shares.groupby("category")["ns"].sum()
    for category, part in zip(ORDER[:-1], PARTS[:-1], strict=True):
        assert by_category[category] == found.steps[part].sum()
    assert (found.exchanges, found.unmatched) == (80, 0)


def test_a_step_of_the_simulation_is_parted_as_it_was_simulated(tmp_path):
    steps = breakdown(load(write_run(tmp_path))).steps
    first = steps.query("repeat == 0 and rank == 0 and step == 0").iloc[0]
    # two layers of project 120, append 20, merge 40, output 60, ffn 260, then logits 90, in us
    assert first["compute_ns"] == (2 * (120 + 20 + 40 + 60 + 260) + 90) * 1000
    # two layers of a post 15, a transfer 50, an all-reduce 30
    assert first["communication_ns"] == 2 * (15 + 50 + 30) * 1000
    assert (first["management_ns"], first["idle_ns"]) == (25_000, 10_000)
    assert first["hidden_ns"] == 2 * 20_000  # appending while the query was in flight


def test_waiting_keeps_its_phase_and_changes_its_category(tmp_path):
    shares = breakdown(load(write_run(tmp_path))).shares
    waits = shares.query("rank == 0 and phase == 'wait_partials' and step == 1 and repeat == 0")
    parts = waits.groupby("category")["ns"].sum()
    assert parts[Category.COMMUNICATION] == 2 * 50_000
    assert parts[Category.SYNCHRONIZATION] > parts[Category.COMMUNICATION]


def test_a_run_without_spans_is_all_idle():
    found = breakdown(tables([], [0, 10, 25], ranks=(0,)))
    assert found.steps["idle_ns"].tolist() == [10, 15]
    assert found.shares.empty


def test_a_partition_that_does_not_add_up_is_refused(tmp_path):
    found = breakdown(load(write_run(tmp_path)))
    off = found.steps.assign(idle_ns=found.steps["idle_ns"] + 1)
    with pytest.raises(AssertionError, match="do not sum"):
        type(found)(steps=off, shares=found.shares, exchanges=0, unmatched=0)


@pytest.mark.parametrize("rank", [0, 1])
def test_the_parts_of_sampled_graph_steps_are_those_of_a_count_of_their_nanoseconds(rank):
    run = load(Run(GRAPHS))
    for found in breakdown(run).steps.query("rank == @rank and kind == 'decode'").itertuples():
        (step,) = run.steps.query("rank == @rank and step == @found.step").itertuples()
        own = run.events.query("rank == @rank and step == @found.step")
        held = {}
        for category in (C, G):
            held[category] = np.zeros(step.end_ns - step.start_ns, bool)
            for span in own[own["category"] == category].itertuples():
                inside = slice(max(span.start_ns - step.start_ns, 0), span.end_ns - step.start_ns)
                held[category][inside] = True
        assert found.compute_ns == held[C].sum()
        assert sum(getattr(found, part) for part in PARTS) == step.end_ns - step.start_ns
        assert found.management_ns <= (held[G] & ~held[C]).sum()
