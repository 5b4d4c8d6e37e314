"""A chain and a replay of pieces small enough to read."""

from fapool.analysis.steps.replay import Piece, chain, replay


def test_records_that_contradict_each_other_end_all_the_same():
    # Each waits for an arrival of the other at the same instant, which cannot be.
    ranks = {
        rank: [
            Piece(
                start_ns=0,
                end_ns=10,
                event=rank,
                phase="wait_hidden",
                waiting=True,
                last=(1 - rank, 10),
                sources=((1 - rank, 10),),
            )
        ]
        for rank in (0, 1)
    }
    path = chain(ranks, 0, 0, 10)
    assert [(rank, since) for rank, since, _ in path] == [(1, 0)]
    assert replay(ranks, 0, {0: 10, 1: 10}) <= 10


def test_a_wait_that_is_cut_by_anothers_arrival_waits_on():
    source = (1, 10)
    wait = {"event": 0, "phase": "wait_hidden", "waiting": True, "last": source}
    wait |= {"sources": (source,)}
    ranks = {
        0: [Piece(start_ns=0, end_ns=4, **wait), Piece(start_ns=4, end_ns=10, **wait)],
        1: [Piece(start_ns=0, end_ns=10, event=1, phase="ffn")],
    }
    ends = {0: 10, 1: 10}
    assert replay(ranks, 0, ends) == 10
    assert replay(ranks, 0, ends, "ffn") == 0


def test_gaps_stay_as_long_as_they_were():
    ranks = {0: [Piece(start_ns=0, end_ns=7), Piece(start_ns=7, end_ns=9, event=0, phase="ffn")]}
    assert replay(ranks, 0, {0: 9}, "ffn") == 7
    assert [piece.phase for _, _, piece in chain(ranks, 0, 0, 9)] == ["ffn", ""]
