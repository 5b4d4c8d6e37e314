"""The decoder-only transformer, on whatever slice of its weights it was given.

    shapes:  T query tokens, E hidden, H heads, K KV heads, D head dim, V vocab

Pre-norm (RMSNorm), rotary positions, two-matrix GELU FFN, tied embedding. It knows no ranks: all
that it knows of attention is `attend`, all that it knows of slices is `total`, which sums a
product over the slices of its inner dimension that lie elsewhere (nothing, on one device).
"""

from __future__ import annotations

from collections.abc import Callable, Generator

import torch
import torch.nn.functional as F
from torch import Tensor

from fapool.phases import Phase
from fapool.runtime.elementwise import operations
from fapool.runtime.span import Span
from fapool.runtime.weights import LayerWeights, Weights
from fapool.spec import Model

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""(layer, q [T, H, D], k [T, K, D], v [T, K, D]) -> [T, H, D]."""

Walk = Generator[tuple[int, Tensor, Tensor, Tensor], Tensor, Tensor]
"""Yields (layer, q, k, v), is sent [T, H, D], returns hidden states [T, E]."""

Total = Callable[..., Tensor]
"""(x, layer=int) -> x summed over the slices."""


class Decoder:
    """Some layers of the model, and its ends if their weights are there.

    `num_heads` are projected; None: as many as the output matrix takes in.
    """

    def __init__(
        self, weights: Weights, model: Model, span: Span, num_heads: int | None = None
    ) -> None:
        self._weights, self._span, self._num_heads = weights, span, num_heads
        self._dim, self._eps = model.head_dim, model.norm_eps
        like = _any(weights)
        self._ops = operations(like.device, like.dtype)
        half = torch.arange(0, model.head_dim, 2, dtype=torch.float64) / model.head_dim
        self._frequencies = (model.rope_base**-half).to(like.device)

    def embed(self, tokens: Tensor) -> Tensor:
        """Token numbers [T] -> hidden states [T, E]."""
        return F.embedding(tokens, self._weights.embedding)

    def layers(self, x: Tensor, positions: Tensor, attend: Attend, total: Total) -> Tensor:
        """Hidden states [T, E] through the layers that are here; `positions` [T]."""
        walk = self.walk(x, positions, total)
        try:
            query = next(walk)
            while True:
                query = walk.send(attend(*query))
        except StopIteration as end:
            return end.value

    def walk(self, x: Tensor, positions: Tensor, total: Total) -> Walk:
        """`layers` with a pause in each: yields what is to be attended, is sent what came of it.

        Several walks over parts of a batch can take turns: one computes while another waits.
        """
        product = None  # not yet added to x: the next norm does both at once
        with self._span(Phase.PROJECT):
            rotation = self._ops.rotation(positions, self._frequencies)
        for number, weights in self._weights.layers.items():
            with self._span(Phase.PROJECT, layer=number):
                x, normed = self._ops.add_norm(x, product, weights.norm_attention, self._eps)
                q, k, v = self._project(weights, normed, rotation)
            attended = yield number, q, k, v
            with self._span(Phase.OUTPUT, layer=number):
                product = self._ops.linear(attended.flatten(1), weights.output)
            product = total(product, layer=number)
            with self._span(Phase.FFN, layer=number):
                x, normed = self._ops.add_norm(x, product, weights.norm_ffn, self._eps)
                inner = self._ops.linear_gelu(normed, weights.ffn_in)
                product = self._ops.linear(inner, weights.ffn_out)
            product = total(product, layer=number)
        if product is None:
            return x
        with self._span(Phase.FFN, layer=number):
            return x + product

    def logits(self, x: Tensor, vocab: range) -> Tensor:
        """Hidden states [T, E] -> logits [T, len(vocab)], fp32 or wider."""
        _, normed = self._ops.add_norm(x, None, self._weights.norm_final, self._eps)
        rows = self._weights.embedding[vocab.start : vocab.stop]
        return self._ops.linear(normed, rows, torch.promote_types(normed.dtype, torch.float32))

    def _project(
        self, weights: LayerWeights, normed: Tensor, rotation: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        heads = self._num_heads or weights.output.shape[1] // self._dim
        kv_heads = (weights.qkv.shape[0] // self._dim - heads) // 2
        return self._ops.rotate(self._ops.linear(normed, weights.qkv), *rotation, heads, kv_heads)


def _any(weights: Weights) -> Tensor:
    """One of the tensors: they all share device and dtype."""
    norms = [layer.norm_attention for layer in weights.layers.values()]
    held = [x for x in (*norms, weights.norm_final, weights.embedding) if x is not None]
    assert held, "no weights lie here"
    return held[0]
