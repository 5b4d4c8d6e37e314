"""How calls are cut: against every other cut under the same model of time, and what they cover."""

from itertools import chain, pairwise, product

import pytest

from fapool.runtime.sequence.mail import of_keys, of_queries
from fapool.runtime.sequence.pacing import Message, Pace, Widths, cut
from fapool.runtime.sequence.sharded import questions
from fapool.runtime.sequence.shared import messages
from fapool.runtime.sequence.zigzag import Zigzag

SIZES = [(64, 2), (37, 3), (129, 4), (5, 3), (2, 3), (1, 4), (96, 8)]
PACES = {
    "fast link": Pace(link_bytes_per_s=1e15, call_s=1e-3),
    "slow link": Pace(link_bytes_per_s=1e3, call_s=0.0),
    "as measured": Pace(),
}
WIDTHS = Widths(query_items=32 * 128, key_items=8 * 128, item_bytes=2)


def end_s(groups: list[list[Message]], own: float, pace: Pace) -> float:
    """When a rank is done that attends these groups of messages one after the other."""
    clock, now = 0.0, own
    for group in groups:
        clock += sum(message.num_bytes for message in group) / pace.link_bytes_per_s
        now = max(now, clock) + sum(message.flops for message in group) / pace.flops_per_s
        now += group[0].merged_bytes / pace.memory_bytes_per_s + pace.call_s
    return now


def all_cuts(coming: list[Message]) -> list[list[list[Message]]]:
    """Every way to cut the list that cuts where the side changes."""
    found = []
    for marks in product([False, True], repeat=len(coming) - 1):
        if all(
            mark or a.side == b.side for (a, b), mark in zip(pairwise(coming), marks, strict=True)
        ):
            edges = [0, *(at + 1 for at, mark in enumerate(marks) if mark), len(coming)]
            found.append([coming[start:stop] for start, stop in pairwise(edges)])
    return found


@pytest.mark.parametrize("tokens", [8192, 32768, 131072])
@pytest.mark.parametrize("link", [3e9, 3e10, 3e11, 3e12])
@pytest.mark.parametrize("of_kind", [messages, questions])
def test_no_other_cut_would_end_sooner(of_kind, tokens, link):
    pace = Pace(link_bytes_per_s=link)
    for ranks in (2, 4, 8):
        shards = Zigzag(num_tokens=tokens, num_ranks=ranks)
        own = 2 * shards.owned(0) ** 2 * 32 * 128 / pace.flops_per_s
        for rank in range(ranks):
            coming = of_kind(shards, rank, WIDTHS)
            by_source = {message.source: message for message in coming}
            chosen = [[by_source[s] for s in call] for call in cut(coming, own, pace)]
            assert list(chain(*chosen)) == coming
            best = min(end_s(other, own, pace) for other in all_cuts(coming))
            assert end_s(chosen, own, pace) == pytest.approx(best)


def test_a_fast_link_leaves_one_call_on_each_side_of_the_rank():
    shards, pace = Zigzag(num_tokens=1 << 20, num_ranks=8), PACES["fast link"]
    calls = [len(cut(messages(shards, rank, WIDTHS), 1, pace)) for rank in range(8)]
    assert calls == [1, 2, 2, 2, 2, 2, 2, 1]


def test_a_slow_link_makes_every_message_a_call():
    shards, pace = Zigzag(num_tokens=8192, num_ranks=8), PACES["slow link"]
    assert [len(cut(messages(shards, rank, WIDTHS), 1, pace)) for rank in range(8)] == [7] * 8


def own_pairs(shards: Zigzag, rank: int) -> list[tuple[int, int]]:
    """(query, key) of the call over the own keys: causal in the order in which they lie."""
    own = shards.positions(rank)
    return [(own[row], own[column]) for row in range(len(own)) for column in range(row + 1)]


def shared_pairs(shards: Zigzag, rank: int, pace: Pace) -> list[tuple[int, int]]:
    """(query, key) of every call of a rank that hears of keys."""
    own, heard, pairs = shards.positions(rank), of_keys(shards, rank).heard, []
    keys = [p for s in heard for p in shards.positions(s)[: shards.visible(s, rank)]]
    for sources in cut(messages(shards, rank, WIDTHS), 1, pace):
        rows = slice(heard[sources[0]].start, heard[sources[-1]].stop)
        queries = own[len(own) - shards.queries(sources[0], rank) :]
        assert queries and keys[rows]
        pairs += product(queries, keys[rows])
    return pairs


def sharded_pairs(shards: Zigzag, rank: int, pace: Pace) -> list[tuple[int, int]]:
    """(query, key) of every call of a rank that hears of queries."""
    heard, pairs, queries = of_queries(shards, rank).heard, [], []
    for source in heard:
        theirs = shards.positions(source)
        queries += theirs[len(theirs) - shards.queries(rank, source) :]
    for sources in cut(questions(shards, rank, WIDTHS), 1, pace):
        rows = slice(heard[sources[0]].start, heard[sources[-1]].stop)
        keys = shards.positions(rank)[: shards.visible(rank, sources[0])]
        assert queries[rows] and keys
        pairs += product(queries[rows], keys)
    return pairs


@pytest.mark.parametrize("others", [shared_pairs, sharded_pairs])
@pytest.mark.parametrize("pace", PACES.values(), ids=PACES)
@pytest.mark.parametrize(("tokens", "ranks"), SIZES)
def test_every_query_meets_every_earlier_key_exactly_once(tokens, ranks, pace, others):
    shards = Zigzag(num_tokens=tokens, num_ranks=ranks)
    pairs = [
        pair
        for rank in range(ranks)
        for pair in own_pairs(shards, rank) + others(shards, rank, pace)
    ]
    assert sorted(pairs) == [(q, k) for q in range(tokens) for k in range(q + 1)]


@pytest.mark.parametrize("others", [shared_pairs, sharded_pairs])
@pytest.mark.parametrize("ranks", [2, 3, 4, 8])
def test_ranks_do_the_same_amount_of_work(ranks, others):
    shards = Zigzag(num_tokens=8 * ranks, num_ranks=ranks)
    work = [len(others(shards, rank, Pace())) for rank in range(ranks)]
    assert max(work) == min(work)
