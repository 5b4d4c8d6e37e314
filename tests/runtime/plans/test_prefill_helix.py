"""What a rank stores and sees of a chunk, against a walk over every token."""

from types import SimpleNamespace

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fapool.deals import Deal
from fapool.runtime.batch import Batch
from fapool.runtime.frames import NOT_HERE
from fapool.runtime.kvcache import KVCache
from fapool.runtime.plans.prefill_helix import HelixPrefill
from fapool.schedule import Segment
from fapool.spec import Helix
from fapool.topology import place
from tests.runtime.test_equality import make_spec

BLOCK, CPU = 4, torch.device("cpu")
chunks = st.lists(
    st.tuples(st.one_of(st.just(0), st.integers(1, 40)), st.integers(1, 20)), min_size=1, max_size=4
)


def make_cache(segments: list[Segment], deal: Deal, keeper: int) -> KVCache:
    cache = KVCache(
        layers=range(1),
        blocks=64,
        block_tokens=BLOCK,
        kv_heads=1,
        head_dim=1,
        dtype=torch.float32,
        device=CPU,
    )
    for segment in reversed(segments):
        cache.reserve(segment.request, deal.blocks(-(-segment.end // BLOCK), keeper))
    return cache


@settings(max_examples=60)
@given(chunks, st.integers(0, 3))
def test_a_chunk_goes_where_its_tokens_lie_one_by_one(sizes, rank):
    spec = make_spec(Helix(kvp=4, tp=1), batch=4)
    at, deal = place(spec, rank), Deal((0, 1, 2, 3))
    segments = [Segment(i, start, length, True) for i, (start, length) in enumerate(sizes)]
    cache = make_cache(segments, deal, at.keeper)
    seat = SimpleNamespace(place=at, spec=spec, device=CPU)
    work = HelixPrefill(seat, cache, deal, None).plan(Batch("prefill", tuple(segments), CPU))

    slots, seen = [], []
    for segment in segments:
        for token in range(segment.start, segment.end):
            local = deal.local(token, BLOCK, at.keeper)
            slots.append(NOT_HERE if local < 0 else cache.slots(segment.request, [local])[0])
            seen.append(segment.start > 0)
    every = torch.arange(len(seen))
    assert work.slots.tolist() == slots
    assert (every if work.seen is None else every[work.seen]).tolist() == [
        row for row, sees in enumerate(seen) if sees
    ]
