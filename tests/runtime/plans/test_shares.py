"""The shares of the columns against a ledger of every token, kept by brute force."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fapool import schedule
from fapool.leases import LeaseBook
from fapool.runtime.batch import Batch
from fapool.runtime.plans.shares import moved, share
from fapool.workload import Request

CPU = torch.device("cpu")
lengths = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 12)), min_size=1, max_size=6)
pools = st.tuples(st.integers(1, 4), st.integers(1, 4)).map(lambda two: (max(two), min(two)))


class Ledger:
    """Which column holds which token of which request, and at which local position."""

    def __init__(self) -> None:
        self.at: dict[tuple[int, int], tuple[int, int]] = {}

    def store(self, request: int, token: int, column: int, local: int) -> None:
        assert (request, token) not in self.at, "stored twice"
        assert (column, local) not in self.of(request).values(), "overwritten"
        self.at[request, token] = (column, local)

    def of(self, request: int) -> dict[int, tuple[int, int]]:
        return {token: where for (owner, token), where in self.at.items() if owner == request}

    def on(self, request: int, column: int) -> dict[int, int]:
        """Token -> local position of a request on one column."""
        found = self.of(request).items()
        return {token: local for token, (holder, local) in found if holder == column}


@settings(deadline=None, max_examples=60)
@given(lengths, pools, st.integers(1, 5), st.integers(4, 20), st.integers(1, 4))
def test_every_token_of_a_lease_lies_on_one_column_and_each_column_sees_what_it_holds(
    sizes, pool, block, threshold, batch_size
):
    columns, width = pool
    requests = [Request(id=i, context=c, output=o) for i, (c, o) in enumerate(sizes)]
    contexts = {request.id: request.context for request in requests}
    book = LeaseBook(columns=columns, width=width, threshold=threshold)
    ledger = Ledger()
    for step in schedule.steps(requests, batch=batch_size, chunk=8):
        for segment, tokens in book.due(step, contexts):
            lease = book.grant(segment.request, tokens=tokens, promised=1)
            for index, column in enumerate(lease.columns):
                taken = moved(segment.request, tokens, index, width, block)
                for token, local in zip(taken.rows, taken.positions, strict=True):
                    ledger.store(segment.request, token, column, local)
            assert sorted(ledger.of(segment.request)) == list(range(tokens))
        check_step(Batch(step.kind, step.segments, CPU), book, ledger, columns, block)
        book.give_back(step.finished)


def check_step(batch: Batch, book: LeaseBook, ledger: Ledger, columns: int, block: int) -> None:
    segments = zip(batch.segments, batch.starts, strict=True)
    tokens = [(s.request, s.start + i) for s, start in segments for i in range(s.length)]
    shares = [share(batch, column, book.leases, block) for column in range(columns)]
    before = {s.request: dict(ledger.of(s.request)) for s in batch.segments}
    for column, mine in enumerate(shares):
        for stored in mine.stored:
            for row, local in zip(stored.rows, stored.positions, strict=True):
                assert tokens[row][0] == stored.request
                ledger.store(*tokens[row], column, local)
    for segment in batch.segments:
        held = ledger.of(segment.request)
        leased = segment.request in book.leases
        assert sorted(held) == (list(range(segment.end)) if leased else [])
    for column, mine in enumerate(shares):
        check_asked(batch, tokens, column, mine, ledger, before)


def check_asked(batch, tokens, column, mine, ledger, before) -> None:
    asked = {part.request: part for part in mine.asked}
    assert len(asked) == len(mine.asked)
    for segment in batch.segments:
        held = ledger.on(segment.request, column)
        if batch.kind == "prefill":  # the chunk itself is the base's
            held = {t: local for t, local in held.items() if t in before[segment.request]}
        part = asked.get(segment.request)
        assert (part is not None) == bool(held)
        if part is not None:
            assert part.visible == len(held)
            assert sorted(held.values()) == list(range(len(held)))  # the first of its blocks
            rows = [row for row, (request, _) in enumerate(tokens) if request == segment.request]
            assert list(part.rows) == rows


def test_blocks_go_round_the_columns_of_the_lease_so_that_none_is_a_block_ahead():
    held = [moved(0, 23, index, 3, 4) for index in range(3)]
    assert [part.rows for part in held] == [
        (0, 1, 2, 3, 12, 13, 14, 15),
        (4, 5, 6, 7, 16, 17, 18, 19),
        (8, 9, 10, 11, 20, 21, 22),
    ]
    assert [part.positions for part in held] == [tuple(range(8)), tuple(range(8)), tuple(range(7))]
