"""The flash-attn package (FlashAttention-2), dense and paged."""

from __future__ import annotations

import torch
from torch import Tensor

from fapool.runtime.rows import KVView

try:
    import flash_attn
except ImportError:
    flash_attn = None


class FlashAttn:
    """`flash_attn_func` on chunks, `flash_attn_with_kvcache` on blocks."""

    name = "flash_attn"
    page = 256

    def unfit(self, *, device: torch.device, dtype: torch.dtype, head_dim: int) -> str | None:
        """Fits CUDA devices from Ampere on, in half precision, where the package is installed."""
        if device.type != "cuda":
            return f"runs on CUDA devices, not on {device.type}"
        if flash_attn is None:
            return "needs the package flash-attn, which is not installed"
        if dtype not in (torch.float16, torch.bfloat16):
            return f"takes float16 and bfloat16, not {dtype}"
        return None

    def dense(self, q: Tensor, k: Tensor, v: Tensor, *, causal: bool) -> tuple[Tensor, Tensor]:
        """See `Backend.dense`."""
        out, lse, _ = flash_attn.flash_attn_func(q, k, v, causal=causal, return_attn_probs=True)
        return out, lse

    def paged(self, q: Tensor, view: KVView) -> tuple[Tensor, Tensor]:
        """See `PagedBackend.paged`."""
        seqlens = view.rows.seqlens
        out, lse = flash_attn.flash_attn_with_kvcache(
            q,
            view.k_pages,
            view.v_pages,
            cache_seqlens=seqlens,
            block_table=view.rows.table,
            return_softmax_lse=True,
        )
        return out, lse.masked_fill((seqlens == 0)[:, None, None], -torch.inf)  # it says +inf
