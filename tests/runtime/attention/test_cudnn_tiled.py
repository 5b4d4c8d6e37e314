"""How keys are cut, and what is put to which kernel; the values are checked with the others'."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fapool.runtime.attention import BACKENDS, choose
from fapool.runtime.attention.cudnn_tiled import GRAIN, tiles
from fapool.runtime.attention.reference import Reference


@given(st.integers(1, 1 << 22))
def test_tiles_fill_the_keys_in_order_and_have_few_lengths(length):
    cut = list(tiles(length))
    assert [t.start for t in cut] == [0, *(t.stop for t in cut[:-1])] and cut[-1].stop == length
    sizes = [t.stop - t.start for t in cut]
    whole = sizes if length % GRAIN == 0 else sizes[:-1]
    assert sorted(set(whole), reverse=True) == whole
    assert all(size % GRAIN == 0 and (size // GRAIN).bit_count() == 1 for size in whole)
    assert len(whole) == len(sizes) or sizes[-1] < GRAIN


class Counting(Reference):
    """Notes the shapes that it is asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int, bool]] = []

    def dense(self, q, k, v, *, causal):
        self.asked.append((q.shape[1], k.shape[1], causal))
        return super().dense(q, k, v, causal=causal)


@pytest.fixture
def tiled(monkeypatch):
    """The backend with the reference in both places; what each was asked for."""
    backend = type(BACKENDS["cudnn_tiled"])()
    monkeypatch.setattr(backend, "_tiles", Counting())
    monkeypatch.setattr(backend, "_rest", Counting())
    return backend


def drawn(queries: int, keys: int):
    shapes = (2, queries, 2, 8), (2, keys, 1, 8), (2, keys, 1, 8)
    return [torch.randn(shape, dtype=torch.float64) for shape in shapes]


@pytest.mark.parametrize("keys", [1, GRAIN - 1, GRAIN, 3 * GRAIN + 5])
def test_tiles_and_rest_together_are_attention_over_all_keys(tiled, keys):
    q, k, v = drawn(GRAIN, keys)
    found, expected = tiled.dense(q, k, v, causal=False), Reference().dense(q, k, v, causal=False)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    assert {size for _, size, _ in tiled._tiles.asked} <= {GRAIN, 2 * GRAIN}
    assert {size for _, size, _ in tiled._rest.asked} <= {keys % GRAIN}


def test_a_prompt_of_any_length_asks_for_no_plan_of_its_own(tiled):
    for queries in (1, 37, GRAIN + 1):
        tiled.dense(*drawn(queries, queries), causal=True)
        tiled.dense(*drawn(queries, 2 * GRAIN), causal=False)
    assert not tiled._tiles.asked


@pytest.mark.gpu(1)
def test_on_hopper_it_is_what_prefill_takes():
    chosen = choose("auto", device=torch.device("cuda"), dtype=torch.bfloat16, head_dim=128)
    hopper = torch.cuda.get_device_capability() >= (9, 0)
    assert (chosen.prefill.name == "cudnn_tiled") == hopper
