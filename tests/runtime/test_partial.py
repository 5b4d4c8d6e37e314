"""The merge of partial attention against softmax over all keys at once, in fp64."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from fapool.runtime.partial import Partial, empty, merge

EXTREMES = (1e30, -1e30, -np.inf, 0.0, 88.7, -103.9, 1e4, 1e4 + 1, -1e4)
lses = st.one_of(st.sampled_from(EXTREMES), st.floats(-200, 200, width=32))
distinct = st.lists(
    lses, min_size=2, max_size=7, unique_by=lambda lse: lse if abs(lse) < 1e3 else lse // 1e3
)
"""Next to 1e30, fp32 cannot tell two equal parts from one; so no two of them there."""


def softmax_over(scores: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, float]:
    """(softmax(scores) @ values, log-sum-exp); (0, -inf) without keys."""
    if not len(scores):
        return np.zeros(values.shape[1]), -np.inf
    top = scores.max()
    weight = np.exp(scores - top)
    return weight @ values / weight.sum(), top + np.log(weight.sum())


def as_partial(out: np.ndarray, lse: float, dtype=torch.float64) -> Partial:
    """One token, one head."""
    return Partial(
        torch.tensor(out, dtype=dtype)[None, None], torch.tensor([[lse]], dtype=torch.float64)
    )


def weighted(outs: np.ndarray, lse: np.ndarray) -> np.ndarray:
    """sum exp(lse) out / sum exp(lse), by hand; 0 where there are no keys at all."""
    if np.isneginf(lse).all():
        return np.zeros(outs.shape[1])
    weight = np.exp(lse - lse.max())
    return weight @ outs / weight.sum()


@given(st.integers(0, 2**31), st.lists(st.integers(0, 6), min_size=1, max_size=6))
def test_parts_of_the_keys_merge_to_attention_over_all_of_them(seed, sizes):
    draw = np.random.default_rng(seed)
    scores, values = draw.normal(0, 8, sum(sizes)), draw.normal(size=(sum(sizes), 5))
    borders = np.cumsum(sizes)[:-1]
    pairs = zip(np.split(scores, borders), np.split(values, borders), strict=True)
    merged = merge([as_partial(*softmax_over(*pair)) for pair in pairs])
    out, lse = softmax_over(scores, values)
    np.testing.assert_allclose(merged.out[0, 0], out, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(merged.lse[0, 0], lse, rtol=1e-12)


@given(st.lists(lses, min_size=1, max_size=6), st.integers(0, 2**31))
def test_huge_tiny_and_missing_parts_never_give_anything_but_their_mean(lse, seed):
    outs = np.random.default_rng(seed).normal(size=(len(lse), 3)).astype(np.float32)
    outs[np.isneginf(lse)] = 0
    rounded = np.array(lse, np.float32)
    parts = [
        Partial(torch.tensor(out)[None, None], torch.tensor([[part]]))
        for out, part in zip(outs, rounded, strict=True)
    ]
    merged = merge(parts)
    assert merged.lse.dtype == torch.float32
    expected = weighted(outs.astype(np.float64), rounded.astype(np.float64))
    np.testing.assert_allclose(merged.out[0, 0], expected, rtol=1e-5, atol=1e-6)
    assert not merged.lse.isnan().any()
    assert bool(merged.lse.isneginf()) == bool(np.isneginf(rounded).all())


@given(distinct, st.randoms(use_true_random=False))
def test_any_order_and_any_grouping_agree(lse, random):
    draw = torch.Generator().manual_seed(random.randrange(2**31))
    parts = [
        Partial(torch.randn(1, 1, 4, generator=draw) * np.isfinite(x), torch.tensor([[x]]).float())
        for x in lse
    ]
    whole = merge(parts)
    shuffled = random.sample(parts, len(parts))
    cut = random.randrange(1, len(parts))
    nested = merge([merge(shuffled[:cut]), merge(shuffled[cut:])])
    for other in (merge(shuffled), nested):
        torch.testing.assert_close(other.out, whole.out, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(other.lse, whole.lse, rtol=1e-6, atol=1e-5)


def test_empty_parts_merge_to_an_empty_part():
    nothing = empty(3, 2, 8, dtype=torch.bfloat16, device=torch.device("cpu"))
    merged = merge([nothing, nothing, nothing])
    assert merged.out.dtype == torch.bfloat16
    assert not merged.out.any()
    assert merged.lse.isneginf().all()


def test_the_empty_part_changes_nothing_whatever_its_side():
    part = Partial(torch.randn(3, 2, 8, dtype=torch.float64), torch.randn(3, 2).double())
    nothing = empty(3, 2, 8, dtype=torch.float64, device=torch.device("cpu"))
    for parts in ([nothing, part], [part, nothing]):
        merged = merge(parts)
        assert torch.equal(merged.out, part.out)
        assert torch.equal(merged.lse, part.lse)


def test_rows_are_merged_each_for_itself():
    torch.manual_seed(0)
    a, b = (Partial(torch.randn(4, 3, 8).double(), torch.randn(4, 3).double()) for _ in "ab")
    a.lse[1, 2] = -torch.inf
    b.lse[3] = -torch.inf
    merged = merge([a, b])
    for token in range(4):
        for head in range(3):
            at = token, head
            outs = np.stack([a.out[at], b.out[at]])
            lse = np.array([a.lse[at], b.lse[at]])
            np.testing.assert_allclose(merged.out[at], weighted(outs, lse), rtol=1e-12)


def test_a_merge_of_bf16_parts_is_as_good_as_their_own_rounding_because_lse_is_fp32():
    """Known: relative RMS error 1.7e-3 with lse in fp32, 1.6e-2 with lse in bf16."""
    torch.manual_seed(0)
    tokens, heads, keys, dim = 8, 8, 16384, 64
    q, k, v = (torch.randn(n, heads, dim).double() for n in (tokens, keys, keys))
    scores = torch.einsum("thd,shd->ths", q, k) * dim**-0.5
    expected = torch.einsum("ths,shd->thd", scores.softmax(-1), v)
    parts = [
        Partial(torch.einsum("ths,shd->thd", s.softmax(-1), piece).bfloat16(), s.logsumexp(-1))
        for s, piece in zip(scores.chunk(4, -1), v.chunk(4), strict=True)
    ]

    def error(lse_dtype: torch.dtype) -> float:
        rounded = [Partial(part.out, part.lse.to(lse_dtype).float()) for part in parts]
        return float((merge(rounded).out.double() - expected).norm() / expected.norm())

    assert error(torch.float32) < 3e-3
    assert error(torch.bfloat16) > 1e-2
