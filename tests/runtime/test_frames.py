"""Frames against a ledger of every token: who holds it, in which slot, seen by which row.

One cache and one frame for each keeper, as on as many ranks; requests come, go, move and grow.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fapool.deals import BASE, HOME, Deal
from fapool.runtime.frames import NOT_HERE, Frame, Stage, buckets
from fapool.runtime.kvcache import KVCache
from fapool.runtime.rows import KVView
from fapool.schedule import Segment

CPU = torch.device("cpu")
LONGEST, BLOCKS, NOBODY = 20, 160, 99
KEEPERS = (BASE, 0, 1, 2)
COPIED = [Deal((0, 1, 2), copied=True, reader=reader) for reader in (0, 2)]
DEALS = (
    *COPIED,
    Deal((2, 1), copied=True, reader=1),
    HOME,
    Deal((0, 1, 2)),
    Deal((2, 0)),
    Deal((BASE, 0, 1, 0)),
    Deal((1,)),
)


def make_cache(block: int) -> KVCache:
    shape = {"layers": range(1), "blocks": BLOCKS, "block_tokens": block, "kv_heads": 1}
    return KVCache(**shape, head_dim=8, dtype=torch.float64, device=CPU)


def make_frame(cache: KVCache, rows: int, keeper: int, splitter=None) -> Frame:
    width = -(-LONGEST // cache.block_tokens)
    own = {"keeper": keeper, "nobody": NOBODY, "splitter": splitter, "hosted": True}
    return Frame(rows=rows, width=width, cache=cache, **own)


def mark(request: int, position: int) -> float:
    return 1000.0 * request + position


class Ranks:
    """A cache and a frame for each keeper, and where each request's blocks lie."""

    def __init__(self, block: int, rows: int) -> None:
        self.block, self.rows = block, rows
        self.caches = {keeper: make_cache(block) for keeper in KEEPERS}
        self.frames = {k: make_frame(self.caches[k], rows, k) for k in KEEPERS}
        self.deals: dict[int, Deal] = {}
        self.tokens: dict[int, int] = {}

    def owned(self, request: int, tokens: int, keeper: int) -> list[int]:
        """Which of the first `tokens` positions lie with `keeper`, one by one."""
        pattern, copied = self.deals[request].pattern, self.deals[request].copied
        if copied:
            return list(range(tokens)) if keeper in pattern else []
        return [p for p in range(tokens) if pattern[p // self.block % len(pattern)] == keeper]

    def place(self, request: int, tokens: int, deal: Deal) -> None:
        """A request with `tokens` tokens comes to lie as `deal` says, wherever it lay."""
        self.leave(request)
        self.deals[request], self.tokens[request] = deal, tokens
        for keeper, cache in self.caches.items():
            blocks = {p // self.block for p in self.owned(request, LONGEST, keeper)}
            if keeper in deal.keepers:
                cache.reserve(request, len(blocks))
                here = self.owned(request, tokens, keeper)
                slots = torch.tensor(cache.slots(request, range(len(here))), dtype=torch.int64)
                self.write(cache, slots, [mark(request, p) for p in here])

    def leave(self, request: int) -> None:
        if self.deals.pop(request, None) is None:
            return
        for cache in self.caches.values():
            if request in cache:
                cache.free(request)

    @staticmethod
    def write(cache: KVCache, slots: torch.Tensor, marks) -> None:
        new = torch.as_tensor(marks, dtype=torch.float64)[:, None, None].expand(-1, 1, 8)
        if len(slots):
            cache.append(0, slots, new.contiguous(), -new)

    def step(self, requests: list[int]) -> None:
        """Decode one token of each; check what every frame says, and what can be read by it."""
        segments = [Segment(r, self.tokens[r], 1, True) for r in requests]
        seen = {request: [] for request in requests}
        for keeper, frame in self.frames.items():
            frame.fill(segments, self.deals.__getitem__)
            self.check(keeper, frame, segments)
            marks = [mark(s.request, s.start) for s in segments]
            self.write(self.caches[keeper], frame.slots, marks + [-1.0] * self.tail(segments))
            for request, found in self.read(keeper, frame, requests):
                seen[request] += found
        for segment in segments:
            self.tokens[segment.request] = segment.end
            expected = [mark(segment.request, p) for p in range(segment.end)]
            assert sorted(seen[segment.request]) == expected

    def tail(self, segments) -> int:
        return self.rows - len(segments)

    def check(self, keeper: int, frame: Frame, segments) -> None:
        cache, tail = self.caches[keeper], self.tail(segments)
        assert frame.ids.tolist() == [s.request for s in segments] + [NOBODY] * tail
        assert frame.positions.tolist() == [s.start for s in segments] + [0] * tail
        lengths, slots = [], []
        for segment in segments:
            here = self.owned(segment.request, segment.end, keeper)
            deal = self.deals[segment.request]
            lengths.append(0 if deal.copied and deal.reader != keeper else len(here))
            new = segment.start in here
            slots.append(cache.slots(segment.request, [len(here) - 1])[0] if new else NOT_HERE)
            assert not here or cache.tokens[segment.request] == len(here)
        assert frame.rows.seqlens.tolist() == lengths + [0] * tail
        assert frame.slots.tolist() == slots + [NOT_HERE] * tail
        assert frame.rows.lengths == (*lengths, *[0] * tail)

    def read(self, keeper: int, frame: Frame, requests):
        """What a paged kernel would see of each row, and a strided one of rows with tokens."""
        cache = self.caches[keeper]
        k_pages = cache.view(0, frame.rows).k_pages
        paged = {}
        for row, request in enumerate(requests):
            length = int(frame.rows.seqlens[row])
            blocks = frame.rows.table[row].tolist()[: -(-length // self.block)]
            flat = torch.cat([k_pages[b, :, 0, 0] for b in blocks]) if blocks else torch.empty(0)
            paged[request] = flat[:length].tolist()
            yield request, paged[request]
        for at, k, _ in KVView(k_pages, k_pages, frame.rows).dense():
            for index, request in enumerate(requests[at]):
                assert k[index, :, 0, 0].tolist() == paged[request]


acts = st.lists(
    st.tuples(
        st.sampled_from(["come", "go", "move", "step", "step", "step"]),
        st.integers(0, 7),
        st.integers(1, LONGEST - 12),
        st.sampled_from(DEALS),
    ),
    min_size=4,
    max_size=22,
)


@settings(max_examples=60)
@given(acts, st.integers(1, 5), st.integers(1, 5))
def test_every_token_is_seen_once_by_its_row_whoever_comes_goes_and_moves(acts, block, rows):
    ranks = Ranks(block, rows)
    for act, request, tokens, deal in acts:
        here = sorted(ranks.deals)
        if act == "come" and request not in ranks.deals and len(here) < 8:
            ranks.place(request, tokens, deal)
        elif act == "go":
            ranks.leave(request)
        elif act == "move" and request in ranks.deals:
            ranks.place(request, ranks.tokens[request], deal)
        elif act == "step":
            batch = [r for r in here if ranks.tokens[r] < LONGEST][request % 3 :][:rows]
            if batch:
                ranks.step(batch[::-1] if tokens % 2 else batch)


@pytest.mark.parametrize("deal", DEALS, ids=str)
def test_rows_grow_across_every_block_border(deal):
    ranks = Ranks(block=3, rows=2)
    ranks.place(5, 1, deal)
    while ranks.tokens[5] < LONGEST:
        ranks.step([5])


def test_a_table_is_written_anew_when_a_request_moves_and_stays_with_the_batch():
    ranks = Ranks(block=2, rows=4)
    for request in range(3):
        ranks.place(request, 5, HOME)
    ranks.step([0, 1, 2])
    ranks.step([0, 1, 2])
    ranks.place(1, 7, Deal((0, 1)))
    ranks.step([0, 1, 2])
    ranks.place(3, 2, HOME)  # into what request 1 left
    ranks.step([3, 0, 1, 2])
    ranks.step([2, 3])


def test_who_attends_changes_while_everybody_stays_where_they_are():
    """As when a lease on other columns begins: none of the requests here has come or gone."""
    ranks = Ranks(block=2, rows=3)
    for request in (0, 1):
        ranks.place(request, 3, COPIED[0])
    ranks.step([0, 1])
    ranks.deals[1] = COPIED[1]
    for frame in ranks.frames.values():
        frame.reseat()
    ranks.step([0, 1])


class FakeSplitter:
    """Notes the lengths that it is asked to cut, and hands them on as its items."""

    size = 4

    def cut(self, lengths: np.ndarray, numbers: np.ndarray) -> None:
        numbers[:] = 10 * lengths

    def items(self, numbers: torch.Tensor) -> torch.Tensor:
        return numbers


def test_work_items_follow_the_lengths_of_every_step():
    cache = make_cache(4)
    frame = make_frame(cache, 4, BASE, FakeSplitter())
    for request, tokens in ((0, 3), (1, 9)):
        cache.reserve(request, 5)
        cache.tokens[request] = tokens
    for step in range(3):
        segments = [Segment(0, 3 + step, 1, True), Segment(1, 9 + step, 1, True)]
        frame.fill(segments, lambda request: HOME)
        assert frame.rows.splits.tolist() == [10 * (4 + step), 10 * (10 + step), 0, 0]


def test_tensors_of_a_frame_stay_where_they_are():
    cache = make_cache(4)
    frame = make_frame(cache, 2, BASE)
    cache.reserve(0, 5)
    tensors = (frame.ids, frame.positions, frame.slots, frame.rows.table, frame.rows.seqlens)
    where = [tensor.data_ptr() for tensor in tensors]
    for step in range(3):
        frame.fill([Segment(0, step, 1, True)], lambda request: HOME)
        after = (frame.ids, frame.positions, frame.slots, frame.rows.table, frame.rows.seqlens)
        assert [tensor.data_ptr() for tensor in after] == where
        assert frame.positions[0] == step


@pytest.mark.parametrize("batch", [1, 2, 3, 7, 8, 9, 64])
def test_a_bucket_wastes_less_than_half_of_its_rows_and_the_last_is_the_batch(batch):
    found = buckets(batch)
    assert found[-1] == batch
    assert list(found) == sorted(set(found))
    for rows in range(1, batch + 1):
        bucket = next(size for size in found if size >= rows)
        assert bucket < 2 * rows


def test_a_step_of_more_requests_than_rows_is_refused():
    cache = make_cache(4)
    frame = make_frame(cache, 1, BASE)
    with pytest.raises(AssertionError):
        frame.fill([Segment(0, 0, 1, True)] * 2, lambda request: HOME)


@pytest.mark.gpu(1)
def test_what_the_device_reads_is_what_was_sent_however_far_the_host_is_ahead():
    device = torch.device("cuda")
    stage = Stage({"a": 3, "b": 2}, device)
    seen = []
    for step in range(12):
        torch.cuda._sleep(2_000_000)
        host = stage.open()
        host["a"][:], host["b"][:] = step, -step
        stage.send()
        seen.append(torch.cat([stage.device["a"], stage.device["b"]]))
    for step, numbers in enumerate(seen):
        assert numbers.tolist() == [step] * 3 + [-step] * 2


def test_a_stage_keeps_its_runs_apart():
    stage = Stage({"a": 2, "b": 0, "c": 3}, CPU)
    for step in range(3):
        host = stage.open()
        host["a"][:], host["c"][:] = step, step + 10
        stage.send()
        assert stage.device["a"].tolist() == [step] * 2
        assert stage.device["b"].numel() == 0
        assert stage.device["c"].tolist() == [step + 10] * 3
