"""torch's own FlashAttention-2."""

from __future__ import annotations

import torch
from torch import Tensor


class Aten:
    """`aten::_flash_attention_forward`, dense: splits the keys where there are few queries."""

    name = "aten"

    def unfit(self, *, device: torch.device, dtype: torch.dtype, head_dim: int) -> str | None:
        """Fits CUDA devices from Ampere on, in half precision."""
        if device.type != "cuda":
            return f"runs on CUDA devices, not on {device.type}"
        if dtype not in (torch.float16, torch.bfloat16):
            return f"takes float16 and bfloat16, not {dtype}"
        if torch.cuda.get_device_capability(device) < (8, 0):
            return "needs compute capability 8.0"
        return None

    def dense(self, q: Tensor, k: Tensor, v: Tensor, *, causal: bool) -> tuple[Tensor, Tensor]:
        """See `Backend.dense`."""
        out, lse, *_ = torch.ops.aten._flash_attention_forward(
            q, k, v, None, None, q.shape[1], k.shape[1], 0.0, causal, False
        )
        return out, lse
