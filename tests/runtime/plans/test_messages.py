"""What is packed comes out again, whatever its shape and stride."""

import torch

from fapool.runtime.plans.messages import pack, unpack


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
