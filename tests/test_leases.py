"""A pool grants what it holds, once, and gets it back."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fapool import schedule
from fapool.leases import Lease, LeaseBook, readers
from fapool.workload import Request

LENGTHS = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 30)), max_size=10)


def live(book: LeaseBook, requests: list[Request], batch: int):
    """Serve requests, yielding (step, leases granted before it, given back after it)."""
    contexts = {request.id: request.context for request in requests}
    for step in schedule.steps(requests, batch=batch, chunk=16):
        granted = [
            book.grant(segment.request, tokens=tokens, promised=requests[segment.request].cached)
            for segment, tokens in book.due(step, contexts)
        ]
        yield step, granted, book.give_back(step.finished)


@given(LENGTHS, st.integers(1, 4), st.integers(1, 5), st.integers(1, 5), st.integers(1, 50))
def test_every_long_request_is_leased_once_and_nothing_stays_out(
    lengths, batch, columns, width, threshold
):
    width = min(width, columns)
    requests = [Request(id=i, context=c, output=o) for i, (c, o) in enumerate(lengths)]
    book = LeaseBook(columns=columns, width=width, threshold=threshold)
    granted, returned = [], []
    for step, leases, ended in live(book, requests, batch):
        granted += leases
        returned += ended
        for segment in step.segments:  # whoever is past the threshold is served by the pool
            past = segment.end > threshold or requests[segment.request].context > threshold
            served = {lease.request for lease in [*book.leases.values(), *ended]}
            assert (segment.request in served) == past
        for lease in leases:
            assert len(set(lease.columns)) == width and set(lease.columns) <= set(range(columns))
    assert sorted(lease.request for lease in granted) == [
        request.id for request in requests if request.cached > threshold
    ]
    assert sorted(map(str, granted)) == sorted(map(str, returned))
    assert book.load == [0] * columns and not book.leases


WIDTHS = st.lists(st.integers(0, 4), min_size=1, max_size=5, unique=True).map(sorted).map(tuple)


@given(st.lists(st.tuples(WIDTHS, st.integers(1, 1000)), max_size=20), st.randoms())
def test_every_request_is_attended_by_a_column_of_its_lease_whatever_the_order(rows, random):
    leases = [Lease(request, columns, 0) for request, (columns, _) in enumerate(rows)]
    tokens = {request: number for request, (_, number) in enumerate(rows)}
    found = readers(leases, tokens)
    assert set(found) == set(tokens)
    assert all(found[lease.request] in lease.columns for lease in leases)
    random.shuffle(leases)
    assert readers(leases, tokens) == found


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=24), st.integers(1, 5))
def test_no_column_of_equal_leases_reads_more_than_a_request_beyond_the_least_loaded(
    lengths, columns
):
    leases = [Lease(request, tuple(range(columns)), 0) for request in range(len(lengths))]
    load = [0] * columns
    for request, column in readers(leases, dict(enumerate(lengths))).items():
        load[column] += lengths[request]
    assert max(load) - min(load) <= max(lengths)


@pytest.mark.parametrize(("number", "columns"), [(1, 3), (7, 3), (64, 3), (5, 5)])
def test_equal_requests_take_turns_over_the_columns(number, columns):
    leases = [Lease(request, tuple(range(columns)), 0) for request in range(number)]
    found = readers(leases, dict.fromkeys(range(number), 100))
    assert [found[request] for request in range(number)] == [i % columns for i in range(number)]


@pytest.mark.parametrize(
    ("context", "moved"),
    [(9, 0), (8, 8), (7, 8), (1, 8)],  # a prompt past the threshold moves nothing
)
def test_a_lease_is_due_when_the_token_past_the_threshold_gets_its_keys(context, moved):
    book = LeaseBook(columns=2, width=2, threshold=8)
    requests = [Request(id=0, context=context, output=20)]
    [lease] = [lease for _, leases, _ in live(book, requests, 1) for lease in leases]
    assert lease.tokens == moved


def test_a_request_that_ends_at_the_threshold_is_never_leased():
    book = LeaseBook(columns=2, width=1, threshold=8)
    requests = [Request(id=0, context=4, output=5)]
    assert requests[0].cached == 8
    assert [leases for _, leases, _ in live(book, requests, 1) if leases] == []


def test_without_a_pool_nothing_is_due():
    book = LeaseBook(columns=0, width=0, threshold=1)
    assert all(not leases for _, leases, _ in live(book, [Request(id=0, context=9, output=9)], 1))


def test_the_least_loaded_columns_are_granted_lowest_first():
    book = LeaseBook(columns=3, width=2, threshold=1)
    assert book.grant(0, tokens=0, promised=10).columns == (0, 1)
    assert book.grant(1, tokens=0, promised=5).columns == (0, 2)
    assert book.load == [15, 10, 5]
    assert book.grant(2, tokens=0, promised=1).columns == (1, 2)
    book.give_back([0])
    assert book.load == [5, 1, 6]


def test_nobody_is_leased_twice():
    book = LeaseBook(columns=1, width=1, threshold=1)
    book.grant(0, tokens=0, promised=1)
    with pytest.raises(AssertionError, match="leased already"):
        book.grant(0, tokens=0, promised=1)


def test_giving_back_what_was_never_leased_gives_back_nothing():
    book = LeaseBook(columns=1, width=1, threshold=1)
    assert book.give_back([3, 4]) == []


def test_equal_books_stay_equal():
    requests = [Request(id=i, context=5 + i, output=9) for i in range(6)]
    books = [LeaseBook(columns=4, width=2, threshold=8) for _ in range(3)]
    histories = [[(g, e) for _, g, e in live(book, requests, 3)] for book in books]
    assert all(a == b for a, b in pairwise(histories))
