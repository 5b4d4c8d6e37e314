"""Arrival, windows and missing partners, on exchanges small enough to read."""

import pandas as pd
import pytest

from fapool.analysis import exchanges
from fapool.phases import EVENTS, Phase


def events(*rows: tuple) -> pd.DataFrame:
    """Rows of (rank, phase, start, end, channel, sequence)."""
    table = pd.DataFrame(
        rows, columns=["rank", "phase", "start_ns", "end_ns", "channel", "sequence"]
    )
    table["category"] = [str(Phase(phase).category) for phase in table["phase"]]
    table = table.assign(repeat=0, step=0, layer=0, micro_batch=0, bytes=1)
    return table[EVENTS.names].astype({"phase": str})


def windows(found: exchanges.Exchanges) -> set[tuple]:
    return set(found.windows[["rank", "start_ns", "end_ns"]].itertuples(index=False, name=None))


def test_a_receiver_waits_until_the_senders_post():
    found = exchanges.match(
        events((0, Phase.SEND_QUERY, 10, 12, "0>1", 1), (1, Phase.WAIT_QUERY, 4, 20, "0>1", 1))
    )
    assert found.arrival_ns.tolist() == [10, 10]
    assert windows(found) == {(0, 10, 20), (1, 10, 20)}
    assert (found.total, found.unmatched) == (1, 0)


def test_a_collective_begins_when_its_last_participant_arrives():
    found = exchanges.match(
        events(*[(rank, Phase.ALL_REDUCE, 5 * rank, 14, "0+1+2", 3) for rank in (2, 0, 1)])
    )
    assert found.arrival_ns.tolist() == [10, 10, 10]
    assert windows(found) == {(0, 10, 14), (1, 10, 14), (2, 10, 14)}


def test_the_same_sequence_in_another_channel_or_direction_is_another_exchange():
    found = exchanges.match(
        events(
            (0, Phase.SEND_QUERY, 10, 12, "0>1", 1),
            (1, Phase.WAIT_QUERY, 4, 20, "0>1", 1),
            (1, Phase.SEND_PARTIALS, 30, 31, "1>0", 1),
            (0, Phase.WAIT_PARTIALS, 13, 40, "1>0", 1),
        )
    )
    assert found.arrival_ns.tolist() == [10, 10, 30, 30]
    assert (found.total, found.unmatched) == (2, 0)


def test_a_channel_may_bear_the_name_of_its_transport():
    found = exchanges.match(
        events(
            (3, Phase.SEND_TOKENS, 10, 12, "3>0:tokens", 1),
            (0, Phase.WAIT_TOKENS, 4, 20, "3>0:tokens", 1),
            (3, Phase.SEND_HIDDEN, 30, 32, "3>0", 1),
            (0, Phase.WAIT_HIDDEN, 24, 40, "3>0", 1),
        )
    )
    assert found.arrival_ns.tolist() == [10, 10, 30, 30]
    assert (found.total, found.unmatched) == (2, 0)


def test_repeats_are_not_joined():
    rows = events(
        (0, Phase.SEND_QUERY, 10, 12, "0>1", 1), (1, Phase.WAIT_QUERY, 4, 20, "0>1", 1)
    ).assign(repeat=[0, 1])
    found = exchanges.match(rows)
    assert (found.total, found.unmatched) == (2, 2)


def test_a_wait_without_its_sender_is_left_whole_and_counted():
    found = exchanges.match(events((1, Phase.WAIT_QUERY, 4, 20, "0>1", 1)))
    assert found.arrival_ns.tolist() == [4]
    assert windows(found) == set()
    assert found.unmatched == 1


def test_a_post_that_nobody_waits_for_is_counted():
    found = exchanges.match(events((0, Phase.SEND_QUERY, 4, 5, "0>1", 1)))
    assert (windows(found), found.unmatched) == (set(), 1)


def test_a_collective_that_lacks_one_is_analysed_with_those_that_came():
    found = exchanges.match(
        events((0, Phase.ALL_REDUCE, 0, 9, "0+1+2", 1), (1, Phase.ALL_REDUCE, 6, 9, "0+1+2", 1))
    )
    assert found.arrival_ns.tolist() == [6, 6]
    assert found.unmatched == 1


def test_a_record_that_came_twice_counts_by_its_earliest():
    found = exchanges.match(
        events(
            (0, Phase.SEND_QUERY, 10, 11, "0>1", 1),
            (0, Phase.SEND_QUERY, 15, 16, "0>1", 1),
            (1, Phase.WAIT_QUERY, 4, 20, "0>1", 1),
        )
    )
    assert found.arrival_ns.tolist() == [10, 15, 10]
    assert found.unmatched == 1


@pytest.mark.parametrize("channel", ["x", "0>", "1>2>3", "0-1"])
def test_a_channel_that_cannot_be_read_stops_nothing(channel):
    found = exchanges.match(events((0, Phase.ALL_REDUCE, 1, 9, channel, 1)))
    assert found.arrival_ns.tolist() == [1]
    assert found.unmatched == 1


def test_other_spans_wait_for_nobody():
    found = exchanges.match(
        events((0, Phase.FFN, 1, 9, "", -1), (0, Phase.STEP_BARRIER, 9, 12, "0+1", 1))
    )
    assert found.arrival_ns.tolist() == [1, 9]
    assert (found.total, found.unmatched) == (0, 0)


def test_whoever_came_last_is_the_one_that_was_waited_for():
    found = exchanges.match(
        events(
            (0, Phase.SEND_QUERY, 10, 12, "0>1", 1),
            (1, Phase.WAIT_QUERY, 4, 20, "0>1", 1),
            *[(rank, Phase.ALL_REDUCE, 5 * rank, 14, "0+1+2", 3) for rank in (2, 0, 1)],
            (1, Phase.WAIT_QUERY, 4, 20, "2>1", 1),
            (0, Phase.FFN, 1, 9, "", -1),
        )
    )
    assert found.awaited.tolist() == [-1, 0, 2, 2, 2, 0, -1]  # of 2>1 nothing is known
    assert found.arrives.tolist() == [True, False, True, True, True, False, False]
    assert len(set(found.exchange[:6])) == 3
    assert found.exchange[6] == -1


@pytest.mark.parametrize("posts", [(10, 50), (50, 10), (10, 50, 90), (90, 10, 50), (7, 7, 7)])
def test_a_wait_for_several_senders_waits_for_the_last_of_them(posts):
    sent = list(enumerate(posts, 1))
    found = exchanges.match(
        events(
            *[(r, Phase.SEND_PARTIALS, p, p + 2, f"{r}>0", 1) for r, p in sent],
            *[(0, Phase.WAIT_PARTIALS, 5, 95, f"{r}>0", 1) for r, _ in sent],
            (0, Phase.WAIT_PARTIALS, 95, 99, "1>0", 2),
        )
    )
    last = max(posts)
    who = max(rank for rank, post in sent if post == last)
    assert found.arrival_ns.tolist() == [*posts, *[last for _ in posts], 95]
    assert found.awaited.tolist() == [*[-1 for _ in posts], *[who for _ in posts], -1]
    assert len(set(found.span[len(posts) : -1])) == 1
    assert len(set(found.span)) == len(posts) + 2
    # each transfer is in flight from its own post
    assert windows(found) == {(at, post, 95) for rank, post in sent for at in (0, rank)}
    assert (found.total, found.unmatched) == (len(posts) + 1, 1)


def test_rows_of_one_instance_are_one_wait_without_a_phase():
    rows = events(
        (1, Phase.SEND_PARTIALS, 10, 12, "1>0", 1),
        (2, Phase.SEND_PARTIALS, 50, 52, "2>0", 1),
        (0, Phase.WAIT_PARTIALS, 5, 60, "1>0", 1),
        (0, Phase.WAIT_PARTIALS, 5, 60, "2>0", 1),
    )
    found = exchanges.match(rows.assign(instance=[4, 4, 9, 9]).drop(columns="phase"))
    assert found.arrival_ns.tolist() == [10, 50, 50, 50]
    assert found.awaited.tolist() == [-1, -1, 2, 2]


def test_a_rank_that_posted_first_arrived_with_its_post():
    found = exchanges.match(
        events(
            (0, Phase.POST, 10, 12, "0+1", 1),
            (1, Phase.POST, 16, 18, "0+1", 1),
            (0, Phase.ALL_TO_ALL, 13, 30, "0+1", 1),
            (1, Phase.ALL_TO_ALL, 28, 31, "0+1", 1),
        )
    )
    assert found.arrival_ns.tolist() == [10, 16, 16, 16]
    assert found.awaited.tolist() == [-1, -1, 1, 1]
    assert found.arrived_ns.tolist() == [10, 16, 10, 16]
    assert windows(found) == {(0, 16, 30), (1, 16, 31)}
    assert (found.total, found.unmatched) == (1, 0)
