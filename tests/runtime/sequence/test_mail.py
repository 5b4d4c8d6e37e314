"""Exchanges played with lists for buffers: what arrives is what was sent, and nothing overlaps."""

import pytest

from fapool.runtime.sequence.mail import of_answers, of_keys, of_queries
from fapool.runtime.sequence.zigzag import Zigzag

SIZES = [(64, 2), (37, 3), (128, 4), (129, 4), (5, 3), (2, 3), (1, 4), (96, 8)]
KINDS = {"keys": of_keys, "queries": of_queries, "answers": of_answers}


def deliver(mails, rows: list[list]) -> list[list]:
    """The buffer of each rank after everybody wrote its rows into the others'."""
    buffers = [[None] * mail.num_rows for mail in mails]
    for rank, mail in enumerate(mails):
        for target in mail.targets:
            for at, row in enumerate(rows[rank][mail.sent[target]], mail.there[target]):
                assert buffers[target][at] is None, "written twice"
                buffers[target][at] = row
    return buffers


@pytest.mark.parametrize(("tokens", "ranks"), SIZES)
def test_keys_come_to_the_queries_that_see_them(tokens, ranks):
    shards = Zigzag(num_tokens=tokens, num_ranks=ranks)
    mails = [of_keys(shards, rank) for rank in range(ranks)]
    own = [shards.positions(rank) for rank in range(ranks)]
    for rank, buffer in enumerate(deliver(mails, own)):
        last = max(own[rank], default=-1)
        assert sorted(buffer) == sorted(set(range(last + 1)) - set(own[rank]))
        for source, span in mails[rank].heard.items():
            assert set(buffer[span]) <= set(own[source])


@pytest.mark.parametrize(("tokens", "ranks"), SIZES)
def test_answers_come_back_to_the_queries_that_were_sent(tokens, ranks):
    shards = Zigzag(num_tokens=tokens, num_ranks=ranks)
    asking = [of_queries(shards, rank) for rank in range(ranks)]
    asked = deliver(asking, [shards.positions(rank) for rank in range(ranks)])
    answering = [of_answers(shards, rank) for rank in range(ranks)]
    by_rank = [[(rank, query) for query in buffer] for rank, buffer in enumerate(asked)]
    for rank, buffer in enumerate(deliver(answering, by_rank)):
        own = shards.positions(rank)
        for source, span in answering[rank].heard.items():
            expected = own[len(own) - shards.queries(source, rank) :]
            assert buffer[span] == [(source, query) for query in expected]


@pytest.mark.parametrize("of_kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize(("tokens", "ranks"), SIZES)
def test_buffers_hold_no_more_than_the_capacity(of_kind, tokens, ranks):
    shards = Zigzag(num_tokens=tokens, num_ranks=ranks)
    assert max(of_kind(shards, rank).num_rows for rank in range(ranks)) <= shards.capacity


@pytest.mark.parametrize("of_kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("ranks", [2, 3, 5])
def test_in_every_step_each_rank_sends_to_one_and_hears_of_one(of_kind, ranks):
    mails = [of_kind(Zigzag(num_tokens=100, num_ranks=ranks), rank) for rank in range(ranks)]
    for step in range(ranks - 1):
        sent = {(rank, mail.targets[step]) for rank, mail in enumerate(mails)}
        assert sent == {(mail.sources[step], rank) for rank, mail in enumerate(mails)}
        assert len({target for _, target in sent}) == ranks


@pytest.mark.parametrize("ranks", [2, 3, 5])
def test_answers_leave_in_the_order_in_which_queries_come(ranks):
    shards = Zigzag(num_tokens=100, num_ranks=ranks)
    for rank in range(ranks):
        assert of_answers(shards, rank).targets == of_queries(shards, rank).sources
