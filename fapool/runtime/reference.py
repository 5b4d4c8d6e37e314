"""The one-device reference: whole sequences at once, fp64, no cache, no slices, no kernels.

Layers are drawn, used and dropped one by one, so that a model that no device could hold whole can
still be checked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import torch
from torch import Tensor

from fapool.instrument.recorder import no_span
from fapool.runtime.attention.base import causal
from fapool.runtime.attention.reference import Reference
from fapool.runtime.model import Decoder
from fapool.runtime.weights import LayerWeights, Source, Weights
from fapool.spec import Model


def reference_logits(
    model: Model, seed: int, sequences: Sequence[Tensor], device: torch.device
) -> list[Tensor]:
    """Logits [T, V], fp64, after every token of each sequence [T] of token numbers."""
    source = Source(model, seed, device)
    embedding = source.embedding().double()
    tokens = [sequence.to(device) for sequence in sequences]
    hidden = [embedding[sequence] for sequence in tokens]
    whole = {"heads": range(model.heads), "kv_heads": range(model.kv_heads)}
    for number in range(model.layers):
        layer = _double(source.layer(number, **whole, ffn=range(model.ffn)))
        decoder = _decoder(model, Weights(layers={number: layer}, embedding=None, norm_final=None))
        hidden = [
            decoder.layers(
                x,
                torch.arange(len(x), device=device),
                lambda _, q, k, v: _attend(q, k, v),
                lambda product, layer: product,
            )
            for x in hidden
        ]
    gain = source.gain("norm_final").double()
    end = _decoder(model, Weights(layers={}, embedding=embedding, norm_final=gain))
    return [end.logits(x, range(model.vocab)) for x in hidden]


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q [T, H, D] over k and v [T, K, D], with the scores of one head at a time: [T, T] in fp64."""
    kernel, group = Reference(), q.shape[1] // k.shape[1]
    pairs = [(slice(h, h + 1), slice(h // group, h // group + 1)) for h in range(q.shape[1])]
    heads = [causal(kernel, q[:, own], k[:, of], v[:, of]).out for own, of in pairs]
    return torch.cat(heads, dim=1)


def _decoder(model: Model, weights: Weights) -> Decoder:
    return Decoder(weights, model, no_span)


def _double(layer: LayerWeights) -> LayerWeights:
    return LayerWeights(**{f.name: getattr(layer, f.name).double() for f in fields(layer)})
