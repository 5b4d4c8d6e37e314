"""Into how many pieces a prefill step is cut, against what each of them takes."""

import pytest

from fapool.pieces import FEWEST_ROWS, GRAIN, IN_FLIGHT, piece_rows
from fapool.spec import FAPool, RunSpec, Workload


def make_spec(chunk: int, overlap: str = "auto") -> RunSpec:
    return RunSpec(
        model="paper-4l",
        plan=FAPool(base=1, pool=3, threshold=2048, overlap=overlap),
        workload=Workload(batch=64, context=16384, output=64),
        prefill_chunk=chunk,
    )


def test_the_user_has_the_last_word():
    assert piece_rows(make_spec(16384, "never")) == 16384
    assert piece_rows(make_spec(512, "always")) == 512 // IN_FLIGHT


@pytest.mark.parametrize(
    ("chunk", "pieces"), [(256, 1), (2048, 1), (4096, 2), (8192, 2), (16384, 4), (65536, 4)]
)
def test_a_chunk_is_cut_as_was_fastest_where_it_was_measured(chunk, pieces):
    assert piece_rows(make_spec(chunk)) == chunk // pieces


@pytest.mark.parametrize("chunk", [2048, 3072, 5120, 7168, 9216, 12288, 65536])
def test_pieces_are_whole_grains_wherever_their_chunk_is(chunk):
    assert piece_rows(make_spec(chunk)) % GRAIN == 0


@pytest.mark.parametrize("chunk", [256, 1024, 3072, 4096, 5120, 12288])
def test_pieces_of_a_prefill_step_fill_the_chunk_and_keep_the_host_ahead(chunk):
    rows = piece_rows(make_spec(chunk))
    assert rows >= min(chunk, FEWEST_ROWS)
    assert -(-chunk // rows) <= IN_FLIGHT


def test_pieces_in_flight_are_as_many_as_hide_queries_and_partials_of_three_pool_ranks():
    """While one piece is sent, attended and sent back, the others keep the base busy."""
    rows, hidden = piece_rows(make_spec(16384)), 4096 * 2
    products = rows * 2 * (4 * 4096**2 + 2 * 4096 * 16384) / 790e12
    there = rows * (3 * hidden + 2 * hidden) / 345e9  # queries thrice, keys and values once
    back = rows * 3 * (hidden + 4 * 32) / 345e9
    attention = products  # as busy as the base
    way = products + there + attention + back
    assert 2 * products < way <= 3 * products < IN_FLIGHT * products
