"""The shares of the keepers against a ledger of every token, kept by brute force."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fapool import schedule
from fapool.deals import BASE, HOME, Deal
from fapool.leases import LeaseBook
from fapool.runtime.batch import Batch
from fapool.runtime.plans.shares import moved, share
from fapool.workload import Request

CPU = torch.device("cpu")
lengths = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 12)), min_size=1, max_size=6)
pools = st.tuples(st.integers(1, 4), st.integers(1, 4)).map(lambda two: (max(two), min(two)))
shares_of_base = st.lists(st.just(BASE), max_size=2)


class Ledger:
    """Which keeper holds which token of which request, and at which local position."""

    def __init__(self) -> None:
        self.at: dict[tuple[int, int], tuple[int, int]] = {}

    def store(self, request: int, token: int, keeper: int, local: int) -> None:
        assert (request, token) not in self.at, "stored twice"
        assert (keeper, local) not in self.of(request).values(), "overwritten"
        self.at[request, token] = (keeper, local)

    def of(self, request: int) -> dict[int, tuple[int, int]]:
        return {token: where for (owner, token), where in self.at.items() if owner == request}

    def on(self, request: int, keeper: int) -> dict[int, int]:
        """Token -> local position of a request with one keeper."""
        found = self.of(request).items()
        return {token: local for token, (holder, local) in found if holder == keeper}

    def grow(self, request: int, token: int, deal: Deal, block: int) -> None:
        """A decode step's new token: behind what its keeper has."""
        keeper = deal.pattern[token // block % len(deal.pattern)]
        self.store(request, token, keeper, len(self.on(request, keeper)))


@settings(max_examples=60)
@given(lengths, pools, shares_of_base, st.integers(1, 5), st.integers(4, 20), st.integers(1, 4))
def test_every_token_of_a_lease_lies_with_one_keeper_and_each_sees_what_it_holds(
    sizes, pool, of_base, block, threshold, batch_size
):
    columns, width = pool
    requests = [Request(id=i, context=c, output=o) for i, (c, o) in enumerate(sizes)]
    contexts = {request.id: request.context for request in requests}
    book = LeaseBook(columns=columns, width=width, threshold=threshold)
    deals = dict.fromkeys(contexts, HOME)
    keepers, ledger = (BASE, *range(columns)), Ledger()
    for step in schedule.steps(requests, batch=batch_size, chunk=8):
        for segment, tokens in book.due(step, contexts):
            lease = book.grant(segment.request, tokens=tokens, promised=1)
            deals[segment.request] = Deal((*of_base, *lease.columns))
            for keeper in keepers:
                taken = moved(segment.request, tokens, deals[segment.request], keeper, block)
                for token, local in zip(taken.rows, taken.positions, strict=True):
                    ledger.store(segment.request, token, keeper, local)
            assert sorted(ledger.of(segment.request)) == list(range(tokens))
        if step.kind == "prefill":
            check_step(Batch(step.kind, step.segments, CPU), book, ledger, keepers, deals, block)
        else:
            for segment in step.segments:
                if segment.request in book.leases:
                    ledger.grow(segment.request, segment.start, deals[segment.request], block)
        book.give_back(step.finished)


def check_step(batch: Batch, book: LeaseBook, ledger: Ledger, keepers, deals, block) -> None:
    segments = zip(batch.segments, batch.starts, strict=True)
    tokens = [(s.request, s.start + i) for s, start in segments for i in range(s.length)]
    leased = book.leases
    shares = {k: share(batch, k, deals, block, requests=leased) for k in keepers}
    before = {s.request: dict(ledger.of(s.request)) for s in batch.segments}
    for keeper, mine in shares.items():
        for stored in mine.stored:
            for row, local in zip(stored.rows, stored.positions, strict=True):
                assert tokens[row][0] == stored.request
                ledger.store(*tokens[row], keeper, local)
    for segment in batch.segments:
        held = ledger.of(segment.request)
        assert sorted(held) == (list(range(segment.end)) if segment.request in leased else [])
    for keeper, mine in shares.items():
        check_asked(batch, tokens, keeper, mine, before)


def check_asked(batch, tokens, keeper, mine, before) -> None:
    """Asked of what it held before the chunk, which it holds from its first place on."""
    asked = {part.request: part for part in mine.asked}
    assert len(asked) == len(mine.asked)
    for segment in batch.segments:
        held = [local for holder, local in before[segment.request].values() if holder == keeper]
        part = asked.get(segment.request)
        assert (part is not None) == bool(held)
        if part is not None:
            assert part.visible == len(held)
            assert sorted(held) == list(range(len(held)))
            rows = [row for row, (request, _) in enumerate(tokens) if request == segment.request]
            assert list(part.rows) == rows
    assert list(mine.asked_rows) == [row for part in mine.asked for row in part.rows]
    assert list(mine.stored_rows) == [row for part in mine.stored for row in part.rows]
    assert mine.is_empty == (not mine.asked and not mine.stored)


def test_blocks_go_round_the_columns_of_the_lease_so_that_none_is_a_block_ahead():
    held = [moved(0, 23, Deal((0, 1, 2)), keeper, 4) for keeper in range(3)]
    assert [part.rows for part in held] == [
        (0, 1, 2, 3, 12, 13, 14, 15),
        (4, 5, 6, 7, 16, 17, 18, 19),
        (8, 9, 10, 11, 20, 21, 22),
    ]
    assert [part.positions for part in held] == [tuple(range(8)), tuple(range(8)), tuple(range(7))]


@pytest.mark.parametrize(("keeper", "rows"), [(BASE, (0, 1, 6, 7)), (1, (2, 3, 4, 5, 8)), (0, ())])
def test_a_base_that_attends_keeps_its_turns_of_the_deal(keeper, rows):
    taken = moved(3, 9, Deal((BASE, 1, 1)), keeper, 2)
    assert taken.rows == rows
    assert taken.positions == tuple(range(len(rows)))


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9)), min_size=1, max_size=5), pools)
def test_rows_of_a_segment_whose_keys_all_have_are_shared_out_evenly(segments, pool):
    columns = tuple(range(pool[0]))
    found = [schedule.Segment(i, start, n, False) for i, (start, n) in enumerate(segments)]
    batch = Batch("prefill", tuple(found), CPU)
    deals = dict.fromkeys(range(len(found)), Deal(columns, copied=True))
    shares = [share(batch, column, deals, 4, requests=deals) for column in columns]
    for at, segment in zip(batch.starts, found, strict=True):
        asked = [[a for a in mine.asked if a.request == segment.request] for mine in shares]
        runs = [a.rows for parts in asked for a in parts]
        rows = range(at, at + segment.length) if segment.start else ()
        assert [row for run in runs for row in run] == list(rows)
        assert {a.visible for parts in asked for a in parts} <= {segment.start}
        sizes = [sum(len(a.rows) for a in parts) for parts in asked]
        assert max(sizes) - min(sizes) <= 1
    for mine in shares:
        assert list(mine.stored_rows) == list(range(batch.tokens))
        for stored, segment in zip(mine.stored, found, strict=True):
            assert stored.positions == tuple(range(segment.start, segment.end))


def test_requests_that_are_not_named_get_no_share():
    segments = (schedule.Segment(0, 4, 4, False), schedule.Segment(1, 4, 4, True))
    batch = Batch("prefill", segments, CPU)
    mine = share(batch, 0, dict.fromkeys((0, 1), Deal((0,))), 2, requests={1})
    assert [part.request for part in (*mine.asked, *mine.stored)] == [1, 1]
    assert list(mine.asked_rows) == list(mine.stored_rows) == [4, 5, 6, 7]
