"""Rows and views of a batch in which some hold nothing."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fapool.runtime.rows import FixedRows, KVView, Rows

CPU = torch.device("cpu")
BLOCK, HEADS, DIM, BLOCKS = 4, 2, 8, 24

rows_of_blocks = st.lists(
    st.one_of(
        st.just(()),
        st.tuples(st.integers(0, BLOCKS - 4), st.integers(1, 4)).map(
            lambda run: tuple(range(run[0], sum(run)))
        ),
        st.lists(st.integers(0, BLOCKS - 1), min_size=1, max_size=3, unique=True).map(tuple),
    ),
    max_size=7,
)


def make_rows(blocks, rests) -> Rows:
    """Rows whose last block holds 1 to `BLOCK` tokens."""
    lengths = [
        len(own) * BLOCK - rest % BLOCK if own else 0
        for own, rest in zip(blocks, rests, strict=False)
    ]
    return Rows(tuple(blocks), tuple(lengths), BLOCK, CPU)


def pages(seed: int) -> torch.Tensor:
    made = torch.Generator().manual_seed(seed)
    return torch.randn(BLOCKS, BLOCK, HEADS, DIM, generator=made)


@given(rows_of_blocks, st.lists(st.integers(0, BLOCK - 1), min_size=7, max_size=7))
def test_a_dense_view_holds_every_row_that_has_tokens_once_and_in_order(blocks, rests):
    rows, k_pages, v_pages = make_rows(blocks, rests), pages(0), pages(1)
    seen = []
    for at, k, v in KVView(k_pages, v_pages, rows).dense():
        for index, row in enumerate(range(at.start, at.stop)):
            seen.append(row)
            for dense, stored in ((k, k_pages), (v, v_pages)):
                expected = torch.cat([stored[block] for block in blocks[row]])
                assert torch.equal(dense[index], expected[: rows.lengths[row]])
    assert seen == [row for row, own in enumerate(blocks) if own]


@given(rows_of_blocks, st.lists(st.integers(0, BLOCK - 1), min_size=7, max_size=7))
def test_a_table_is_padded_and_an_empty_row_is_all_padding(blocks, rests):
    rows = make_rows(blocks, rests)
    widest = max(1, *map(len, blocks), 1)
    assert rows.table.shape == ((len(blocks), widest) if blocks else (0,))
    for row, own in enumerate(blocks):
        assert rows.table[row].tolist() == [*own, *[0] * (widest - len(own))]
    assert rows.seqlens.tolist() == list(rows.lengths)
    assert rows.table.dtype == rows.seqlens.dtype == torch.int32


def test_an_empty_row_parts_a_strided_batch():
    blocks = ((0, 1), (2, 3), (), (4, 5), (6, 7))
    rows = Rows(blocks, (8, 8, 0, 8, 8), BLOCK, CPU)
    assert rows.runs == ((0, 2, 0, 2), (3, 2, 4, 2))
    assert Rows(((), ()), (0, 0), BLOCK, CPU).runs == ()


def test_rows_that_lie_backwards_or_at_uneven_distance_are_no_batch():
    rows = Rows(((4, 5), (2, 3), (6, 7), (8, 9)), (8, 8, 8, 8), BLOCK, CPU)
    assert [run[:2] for run in rows.runs] == [(0, 1), (1, 2), (3, 1)]


def test_fixed_rows_say_what_the_step_says_and_keep_their_tensors():
    table = torch.zeros(3, 2, dtype=torch.int32)
    seqlens = torch.zeros(3, dtype=torch.int32)
    fixed, k_pages = FixedRows(table, seqlens, BLOCK), pages(0)
    for blocks, lengths in ((((1, 2), (), ()), (7, 0, 0)), (((), (5,), (3, 4)), (0, 2, 8))):
        fixed.now = now = Rows(blocks, lengths, BLOCK, CPU)
        assert (fixed.lengths, fixed.blocks, fixed.runs) == (now.lengths, now.blocks, now.runs)
        found = list(KVView(k_pages, k_pages, fixed).dense())
        expected = list(KVView(k_pages, k_pages, now).dense())
        assert [at for at, _, _ in found] == [at for at, _, _ in expected]
        assert all(torch.equal(a[1], b[1]) for a, b in zip(found, expected, strict=True))
    assert fixed.table is table
    with pytest.raises(AttributeError):
        FixedRows(table, seqlens, BLOCK).lengths  # noqa: B018  nobody asked the host to know
