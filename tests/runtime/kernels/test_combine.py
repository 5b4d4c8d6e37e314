"""Items merged into rows, against log-sum-exp written out in fp64."""

from itertools import pairwise

import pytest
import torch

from tests.runtime.kernels.interpreter import DEVICE, here

pytest.importorskip("triton")
from fapool.runtime.kernels.combine import combine

COUNTS = [[3, 0, 1, 12], [0], [130], [1, 1]]  # items of each row


def written_out(out, lse, first):
    """Merged out [B, H, D], lse [B, H] in fp64."""
    out, lse = out.double(), lse.double()
    spans = [slice(a, b) for a, b in pairwise(first)]
    total = torch.stack([lse[span].logsumexp(0) for span in spans])
    shift = total.nan_to_num(neginf=0.0)
    weights = [torch.exp(lse[span] - shift[row]) for row, span in enumerate(spans)]
    merged = [(w[..., None] * out[span]).sum(0) for w, span in zip(weights, spans, strict=True)]
    return torch.stack(merged), total


@pytest.mark.parametrize("counts", here(COUNTS, [*COUNTS, [700, 1, 0], [9] * 64]))
@pytest.mark.parametrize("spare", [0, 300])
def test_items_merge_to_what_all_of_a_rows_keys_give(counts, spare):
    torch.manual_seed(0)
    heads, dim = 3, 32
    first = torch.tensor([0, *counts]).cumsum(0)
    items = max(int(first[-1]), 1) + spare
    out, lse = torch.randn(items, heads, dim), 20 * torch.randn(items, heads)
    lse[0, 1] = -torch.inf  # an item may be empty for all that the merge knows
    out[first[-1] :] = torch.nan
    merged = torch.full((len(counts), heads, dim), torch.nan, device=DEVICE)
    total = torch.full((len(counts), heads), torch.nan, device=DEVICE)
    combine(out.to(DEVICE), lse.to(DEVICE), first.int().to(DEVICE), merged, total)
    expected, expected_total = written_out(out, lse, first.tolist())
    torch.testing.assert_close(merged.double().cpu(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(total.double().cpu(), expected_total, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("dtype", here([torch.float16], [torch.float16, torch.bfloat16]))
def test_values_are_rounded_once_at_the_end_and_lse_stays_fp32(dtype):
    torch.manual_seed(1)
    out, lse = torch.randn(5, 2, 16), torch.randn(5, 2)
    rows = torch.empty(2, 5, 16, dtype=dtype, device=DEVICE)[:, 1:3]  # rows of something wider
    total = torch.empty(2, 2, device=DEVICE)
    first = torch.tensor([0, 2, 5], dtype=torch.int32, device=DEVICE)
    combine(out.to(DEVICE), lse.to(DEVICE), first, rows, total)
    expected, _ = written_out(out, lse, [0, 2, 5])
    torch.testing.assert_close(rows.cpu(), expected.to(dtype), rtol=2**-7, atol=1e-3)
    assert total.dtype == torch.float32
