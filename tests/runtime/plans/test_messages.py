"""What is packed comes out again, bit for bit, whatever the dtype."""

import pytest
import torch

from fapool.runtime.partial import Partial
from fapool.runtime.plans.messages import (
    pack,
    pack_partial,
    partial_size,
    unpack,
    unpack_partial,
)

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("tokens", "heads", "dim"), [(1, 1, 8), (3, 5, 24), (7, 2, 64)])
def test_a_partial_keeps_every_bit_of_its_lse_on_the_way(dtype, tokens, heads, dim):
    torch.manual_seed(0)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    part = Partial(
        torch.randn(tokens, heads, dim).to(dtype), torch.randn(tokens, heads, dtype=wide) * 1e3
    )
    part.lse[0, 0] = -torch.inf
    flat = pack_partial(part)
    assert flat.dtype == dtype
    assert flat.numel() == partial_size(tokens, heads, dim, dtype)
    arrived = torch.empty_like(flat).copy_(flat)
    back = unpack_partial(arrived, tokens, heads, dim)
    assert torch.equal(back.out, part.out)
    assert back.lse.dtype == wide
    assert torch.equal(back.lse, part.lse)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_slice_of_the_heads_can_be_packed(dtype):
    part = Partial(torch.randn(3, 6, 8).to(dtype), torch.randn(3, 6, dtype=torch.float32))
    if dtype == torch.float64:
        part = Partial(part.out, part.lse.double())
    back = unpack_partial(pack_partial(Partial(part.out[:, 2:5], part.lse[:, 2:5])), 3, 3, 8)
    assert torch.equal(back.out, part.out[:, 2:5])
    assert torch.equal(back.lse, part.lse[:, 2:5])


def test_tensors_of_any_shape_and_stride_come_out_as_they_went_in():
    torch.manual_seed(0)
    tensors = [
        torch.randn(4, 3, 8)[:, 1:],
        torch.empty(0, 3, 8),
        torch.randn(5, 2).T,
        torch.randn(2, 0, 8),
    ]
    back = unpack(pack(*tensors), *(tuple(tensor.shape) for tensor in tensors))
    assert all(torch.equal(a, b) for a, b in zip(back, tensors, strict=True))
