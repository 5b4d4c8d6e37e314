"""Packing and splitting of segments, against the segments themselves."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from fapool.runtime.batch import Batch, split
from fapool.schedule import Segment

segments = st.lists(
    st.builds(Segment, st.integers(0, 99), st.integers(0, 50), st.integers(1, 9), st.booleans()),
    min_size=1,
    max_size=9,
).map(tuple)


@given(segments)
def test_rows_are_the_tokens_of_the_segments_in_order(packed):
    batch = Batch("prefill", packed, torch.device("cpu"))
    tokens = [(s.request, s.start + i) for s in packed for i in range(s.length)]
    last = [(s.request, s.end - 1) for s in packed if s.emits]
    assert batch.tokens == len(tokens)
    assert batch.positions.tolist() == [position for _, position in tokens]
    assert [tokens[row] for row in batch.emitting] == last
    assert batch.emitters == [request for request, _ in last]
    for start, segment in zip(batch.starts, packed, strict=True):
        assert tokens[start] == (segment.request, segment.start)


@given(segments, st.integers(1, 12))
def test_micro_batches_are_the_segments_cut_evenly_and_never_empty(packed, parts):
    pieces = split(packed, parts)
    assert tuple(segment for piece in pieces for segment in piece) == packed
    assert len(pieces) == min(parts, len(packed))
    sizes = {len(piece) for piece in pieces}
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) >= 1
