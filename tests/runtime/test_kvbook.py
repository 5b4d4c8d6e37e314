"""The book of keys: the last step of every company of requests, and sums that hold."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from fapool.runtime.kvbook import KVBook
from fapool.runtime.kvcache import KVCache


def make_cache() -> KVCache:
    return KVCache(
        layers=range(2),
        blocks=64,
        block_tokens=4,
        kv_heads=1,
        head_dim=8,
        dtype=torch.float32,
        device=torch.device("cpu"),
    )


def rows(book: KVBook) -> list[tuple]:
    return list(zip(*book.columns().values(), strict=True))


def test_rows_are_of_the_last_step_before_somebody_comes_or_goes():
    cache, book = make_cache(), KVBook(3)
    cache.reserve(7, 3)
    for step, tokens in enumerate((4, 5, 6)):
        cache.tokens[7] = tokens
        book.note(0, step, cache)
    cache.reserve(9, 1)
    cache.tokens |= {7: 7, 9: 4}
    book.note(0, 3, cache)
    token = 2 * 2 * 8 * 4  # k and v, layers, dim, bytes
    assert rows(book) == [
        (0, 3, 2, 7, 3, 6, 2, 6 * token),
        (0, 3, 3, 7, 3, 7, 3, 7 * token),
        (0, 3, 3, 9, 1, 4, 4, 4 * token),
    ]
    assert rows(book) == rows(book)  # reading again adds nothing


def test_a_request_that_waits_for_its_first_token_has_none():
    cache, book = make_cache(), KVBook(0)
    cache.reserve(1, 2)
    book.note(0, 0, cache)
    assert rows(book) == [(0, 0, 0, 1, 2, 0, 0, 0)]


EVENTS = st.lists(st.sampled_from(["come", "go", "step", "step", "repeat"]), max_size=40)


@given(EVENTS)
def test_every_request_and_the_sum_have_their_peaks_in_the_book(events):
    cache, book = make_cache(), KVBook(0)
    repeat = step = comer = 0
    peaks: dict[tuple[int, int], int] = {}
    sums: dict[tuple[int, int], int] = {}
    for event in events:
        if event == "come" and len(cache.tokens) < 8:
            cache.reserve(comer, 8)
            comer += 1
        elif event == "go" and cache.tokens:
            cache.free(min(cache.tokens))
        elif event == "repeat":
            cache.clear()
            repeat, step = repeat + 1, 0
        elif event == "step":
            for request in cache.tokens:
                cache.tokens[request] = min(32, cache.tokens[request] + 1)
                at = repeat, request
                peaks[at] = max(peaks.get(at, 0), cache.tokens[request])
            sums[repeat, step] = cache.num_tokens
            book.note(repeat, step, cache)
            step += 1
    found = rows(book)
    for (repeat, request), most in peaks.items():
        assert most == max(r[5] for r in found if (r[0], r[3]) == (repeat, request))
    for repeat, step in {(r[0], r[2]) for r in found}:
        held = sum(r[5] for r in found if (r[0], r[2]) == (repeat, step))
        assert held == sums[repeat, step]
