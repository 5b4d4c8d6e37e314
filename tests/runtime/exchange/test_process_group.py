"""Messages and collectives among four gloo ranks."""

import pytest
import torch

pytestmark = pytest.mark.ranks


@pytest.fixture(scope="module")
def told(crew) -> list[dict]:
    return crew.ask("talk")


def test_messages_of_a_pair_arrive_in_the_order_in_which_they_were_posted(told):
    for rank, came in enumerate(told):
        before = (rank - 1) % 4
        for number, message in enumerate(came["arrived"]):
            assert message.dtype == torch.bfloat16
            assert message.tolist() == [[10.0 * before + number] * 2] * (number + 1)


def test_a_message_that_is_waited_for_twice_is_an_error_that_names_it(told):
    for rank, came in enumerate(told):
        assert f"{(rank - 1) % 4}>{rank}" in came["twice"]


def test_both_ends_of_a_message_give_it_the_same_channel_number_layer_and_size(told):
    ends = {"send_query": {}, "wait_query": {}}
    for came in told:
        for span in came["spans"]:
            if span.get("channel") and ">" in span["channel"] and span["phase"] in ends:
                key = span["channel"], span["sequence"]
                assert key not in ends[span["phase"]]
                ends[span["phase"]][key] = (span["layer"], span["num_bytes"])
    assert ends["send_query"] == ends["wait_query"]
    assert len(ends["send_query"]) == 12
    assert set(ends["send_query"].values()) == {(0, 4), (1, 8), (2, 12)}


def test_bytes_under_way_are_counted_on_both_sides(told):
    assert [came["peak"] for came in told] == [2 * (4 + 8 + 12)] * 4


def test_every_rank_gets_the_sum_in_place_and_everybodys_part_in_order(told):
    for came in told:
        found = came["collectives"]
        assert found["gathered"].tolist() == [[[float(rank), 1.0]] for rank in range(4)]
        assert found["summed"].tolist() == [[6.0, 4.0]]
        assert found["in_place"]


def test_piece_i_of_an_exchange_goes_to_the_rank_i(told):
    for rank, came in enumerate(told):
        now, later = came["collectives"]["exchanged"]
        assert now.tolist() == [[10.0 * sender + rank] for sender in range(4)]
        assert later.tolist() == [[-10.0 * sender - rank] for sender in range(4)]
        found = [span for span in came["spans"] if span["phase"] == "all_to_all"]
        assert [(span["layer"], span["num_bytes"]) for span in found] == [(1, 6), (2, 6)]


def test_collectives_of_a_group_are_numbered_alike_on_all_its_ranks(told):
    numbers = [
        [
            (str(span["phase"]), span["channel"], span["sequence"])
            for span in came["spans"]
            if "+" in span.get("channel", "")
        ]
        for came in told
    ]
    phases = ("gather_tokens", "all_reduce", "all_to_all", "all_to_all")
    expected = [(phase, "0+1+2+3", i) for i, phase in enumerate(phases)]
    expected.insert(3, ("post", "0+1+2+3", 3))  # the last one: the rank arrives with its post
    assert numbers == [expected] * 4
