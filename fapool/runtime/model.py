"""The decoder-only transformer, on whatever slice of its weights it was given.

    shapes:  T query tokens, E hidden, H heads, K KV heads, D head dim, V vocab

Pre-norm (RMSNorm), rotary positions, two-matrix GELU FFN, tied embedding. It knows no ranks: all
that it knows of attention is `attend`, all that it knows of slices is `total`, which sums a
product over the slices of its inner dimension that lie elsewhere (nothing, on one device).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from fapool.phases import Phase
from fapool.runtime.span import Span
from fapool.runtime.weights import LayerWeights, Weights
from fapool.spec import Model

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""(layer, q [T, H, D], k [T, K, D], v [T, K, D]) -> [T, H, D]."""

Total = Callable[..., Tensor]
"""(x, layer=int) -> x summed over the slices."""


class Decoder:
    """Some layers of the model, and its ends if their weights are there."""

    def __init__(self, weights: Weights, model: Model, span: Span) -> None:
        self._weights, self._span = weights, span
        self._dim, self._eps = model.head_dim, model.norm_eps
        half = torch.arange(0, model.head_dim, 2, dtype=torch.float64) / model.head_dim
        self._frequencies = model.rope_base**-half

    def embed(self, tokens: Tensor) -> Tensor:
        """Token numbers [T] -> hidden states [T, E]."""
        return F.embedding(tokens, self._weights.embedding)

    def layers(self, x: Tensor, positions: Tensor, attend: Attend, total: Total) -> Tensor:
        """Hidden states [T, E] through the layers that are here; `positions` [T]."""
        with self._span(Phase.PROJECT):
            rotation = self._rotation(positions, x.dtype)
        for number, weights in self._weights.layers.items():
            with self._span(Phase.PROJECT, layer=number):
                q, k, v = self._project(weights, x, rotation)
            attended = attend(number, q, k, v)
            with self._span(Phase.OUTPUT, layer=number):
                product = attended.flatten(1) @ weights.output.T
            product = total(product, layer=number)
            with self._span(Phase.FFN, layer=number):
                x = x + product
                product = self._ffn(weights, x)
            product = total(product, layer=number)
            with self._span(Phase.FFN, layer=number):
                x = x + product
        return x

    def logits(self, x: Tensor, vocab: range) -> Tensor:
        """Hidden states [T, E] -> logits [T, len(vocab)], fp32 or wider."""
        x = self._norm(x, self._weights.norm_final)
        product = x @ self._weights.embedding[vocab.start : vocab.stop].T
        return product if product.dtype == torch.float64 else product.float()

    def _project(self, weights: LayerWeights, x: Tensor, rotation: tuple[Tensor, Tensor]):
        x = self._norm(x, weights.norm_attention)
        heads = weights.output.shape[1] // self._dim
        qkv = (x @ weights.qkv.T).unflatten(1, (-1, self._dim))
        kv_heads = (qkv.shape[1] - heads) // 2
        q_and_k, v = qkv.split([heads + kv_heads, kv_heads], dim=1)
        q, k = _rotate(q_and_k, *rotation).split([heads, kv_heads], dim=1)
        return q.contiguous(), k.contiguous(), v.contiguous()

    def _ffn(self, weights: LayerWeights, x: Tensor) -> Tensor:
        x = self._norm(x, weights.norm_ffn)
        return F.gelu(x @ weights.ffn_in.T) @ weights.ffn_out.T

    def _norm(self, x: Tensor, gain: Tensor) -> Tensor:
        return F.rms_norm(x, x.shape[-1:], gain, self._eps)

    def _rotation(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        if self._frequencies.device != positions.device:
            self._frequencies = self._frequencies.to(positions.device)
        angles = positions.double()[:, None, None] * self._frequencies
        return angles.cos().to(dtype), angles.sin().to(dtype)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding (Su et al. 2021, section 3.2), halves paired: x [T, H, D]."""
    left, right = x.chunk(2, dim=-1)
    return torch.cat([left * cos - right * sin, right * cos + left * sin], dim=-1)
