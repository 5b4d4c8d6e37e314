"""cuDNN's attention, through torch."""

from __future__ import annotations

import torch
from torch import Tensor


class Cudnn:
    """`aten::_scaled_dot_product_cudnn_attention`: the fastest prefill on Hopper.

    It compiles a plan for every new combination of lengths; its lse keeps a trailing 1.
    """

    name = "cudnn"

    def unfit(self, *, device: torch.device, dtype: torch.dtype, head_dim: int) -> str | None:
        """Fits CUDA devices from Ampere on, in half precision, heads up to 128."""
        if device.type != "cuda" or not torch.backends.cudnn.is_available():
            return f"needs CUDA and cuDNN, not {device.type}"
        if dtype not in (torch.float16, torch.bfloat16):
            return f"takes float16 and bfloat16, not {dtype}"
        if torch.cuda.get_device_capability(device) < (8, 0):
            return "needs compute capability 8.0"
        return None if head_dim <= 128 else f"takes head_dim up to 128, not {head_dim}"

    def dense(self, q: Tensor, k: Tensor, v: Tensor, *, causal: bool) -> tuple[Tensor, Tensor]:
        """See `Backend.dense`."""
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        out, lse, *_ = torch.ops.aten._scaled_dot_product_cudnn_attention(
            q, k, v, None, True, 0.0, causal, False
        )
        return out.transpose(1, 2), lse.reshape(q.shape[:3])
