"""Attention as the textbook has it, in fp64: what the others are held against."""

from __future__ import annotations

import torch
from torch import Tensor


class Reference:
    """Any device, any dtype, slow; rounds only at the end."""

    name = "reference"

    def unfit(self, *, device: torch.device, dtype: torch.dtype, head_dim: int) -> str | None:
        """Fits everywhere."""
        return None

    def dense(self, q: Tensor, k: Tensor, v: Tensor, *, causal: bool) -> tuple[Tensor, Tensor]:
        """softmax(q k^T / sqrt(D)) v; see `Backend.dense`."""
        group = q.shape[2] // k.shape[2]
        keys, values = (x.double().repeat_interleave(group, dim=2) for x in (k, v))
        scores = torch.einsum("bqhd,bshd->bhqs", q.double(), keys) * q.shape[-1] ** -0.5
        if causal:
            hidden = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
            scores = scores.masked_fill(hidden, -torch.inf)
        lse = scores.logsumexp(dim=-1)
        out = torch.einsum("bhqs,bshd->bqhd", torch.exp(scores - lse.unsqueeze(-1)), values)
        return out.to(q.dtype), lse
