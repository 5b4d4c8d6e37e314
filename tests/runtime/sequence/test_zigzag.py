"""Who owns and who sees which tokens, against the positions counted one by one."""

from itertools import chain

import pytest

from fapool.runtime.sequence.zigzag import Zigzag

SIZES = [(64, 2), (37, 3), (128, 4), (129, 4), (5, 3), (2, 3), (1, 4), (7, 1), (96, 8)]


@pytest.mark.parametrize(("tokens", "ranks"), SIZES)
def test_every_token_lies_on_one_rank_and_early_before_late(tokens, ranks):
    shards = Zigzag(num_tokens=tokens, num_ranks=ranks)
    positions = [shards.positions(rank) for rank in range(ranks)]
    assert sorted(chain(*positions)) == list(range(tokens))
    assert all(own == sorted(own) for own in positions)
    assert [len(own) for own in positions] == [shards.owned(rank) for rank in range(ranks)]


def test_ranks_own_a_chunk_from_the_head_and_one_from_the_tail():
    shards = Zigzag(num_tokens=8, num_ranks=4)
    assert [shards.positions(rank) for rank in range(4)] == [[0, 7], [1, 6], [2, 5], [3, 4]]


@pytest.mark.parametrize(("tokens", "ranks"), SIZES)
def test_visible_keys_and_the_queries_that_see_them_are_those_of_the_causal_mask(tokens, ranks):
    shards = Zigzag(num_tokens=tokens, num_ranks=ranks)
    for rank in range(ranks):
        own = shards.positions(rank)
        for source in set(range(ranks)) - {rank}:
            keys = shards.positions(source)
            seen = [key for key in keys if any(key < query for query in own)]
            seeing = [query for query in own if any(key < query for key in keys)]
            assert keys[: shards.visible(source, rank)] == seen
            assert own[len(own) - shards.queries(source, rank) :] == seeing


def test_capacity_grows_with_the_prompt():
    sizes = [Zigzag(num_tokens=tokens, num_ranks=3).capacity for tokens in range(50)]
    assert sizes == sorted(sizes)
