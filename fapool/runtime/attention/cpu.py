"""torch's FlashAttention for the CPU."""

from __future__ import annotations

import torch
from torch import Tensor


class Cpu:
    """`aten::_scaled_dot_product_flash_attention_for_cpu`; takes grouped heads as they are.

    Its causal mask is aligned top-left and it dies (SIGFPE) without keys: `base` keeps both away.
    """

    name = "cpu"

    def unfit(self, *, device: torch.device, dtype: torch.dtype, head_dim: int) -> str | None:
        """Fits CPUs."""
        return None if device.type == "cpu" else f"runs on CPUs, not on {device.type}"

    def dense(self, q: Tensor, k: Tensor, v: Tensor, *, causal: bool) -> tuple[Tensor, Tensor]:
        """See `Backend.dense`."""
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, causal)
        return out.transpose(1, 2), lse
