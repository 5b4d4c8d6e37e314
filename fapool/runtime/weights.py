"""Weights drawn by tensor name, so that any slicing of the same tensor is equal on every plan.

    shapes:  E hidden, H heads, K KV heads, D head dim, F ffn, V vocab

A whole tensor is drawn in fp32 from a seed made of its name, sliced, and rounded to the model's
dtype: rows (the outputs) are sliced in q, k, v and the FFN's first matrix, columns (the inputs)
in the two that follow a nonlinearity, as Megatron does (Shoeybi et al. 2019, section 3).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from fapool.spec import Model


@dataclass(frozen=True, kw_only=True)
class LayerWeights:
    """One layer: a slice of the heads and of the FFN.

    `output` takes in H' heads: where ranks share keys, a part of the H that `qkv` projects.
    """

    norm_attention: Tensor  # [E]
    qkv: Tensor  # [(H + 2 K) D, E], rows: all q, all k, all v
    output: Tensor  # [E, H' D]
    norm_ffn: Tensor  # [E]
    ffn_in: Tensor  # [F, E]
    ffn_out: Tensor  # [E, F]


@dataclass(frozen=True, kw_only=True)
class Weights:
    """What a rank holds: its layers, and the ends of the model if they are its own."""

    layers: dict[int, LayerWeights]  # by global number
    embedding: Tensor | None  # [V, E], whole: looked up by the first stage, tied to the last
    norm_final: Tensor | None  # [E]

    @property
    def num_bytes(self) -> int:
        """Bytes of all tensors."""
        ends = [t for t in (self.embedding, self.norm_final) if t is not None]
        layers = [getattr(w, f.name) for w in self.layers.values() for f in fields(w)]
        return sum(t.nbytes for t in ends + layers)


class Source:
    """Draws tensors by name for one model and seed, on one device.

    The device's own generator draws: values are equal among ranks of one kind of device.
    """

    def __init__(self, model: Model, seed: int, device: torch.device) -> None:
        self.model, self._seed, self._device = model, seed, device
        self.dtype = getattr(torch, model.dtype)

    def draw(self, name: str, shape: tuple[int, ...], *, gain: bool = False) -> Tensor:
        """The whole tensor `name`, fp32: N(0, 1/fan_in), or 1 + N(0, 0.01) for a norm's gain."""
        digest = hashlib.sha256(f"{self._seed}:{name}".encode()).digest()
        generator = torch.Generator(self._device)
        generator.manual_seed(int.from_bytes(digest[:7], "big"))
        values = torch.randn(shape, generator=generator, device=self._device)
        return values.mul_(0.1).add_(1.0) if gain else values.mul_(shape[-1] ** -0.5)

    def layer(
        self,
        number: int,
        *,
        heads: range,
        kv_heads: range,
        ffn: range,
        out_heads: range | None = None,
    ) -> LayerWeights:
        """One layer's slice; `out_heads`: those that the output matrix takes in, None: `heads`."""
        m = self.model
        name = f"layers.{number}."
        get = self._getter(name)
        q = get("q", (m.heads * m.head_dim, m.hidden), rows=_wide(heads, m.head_dim))
        k, v = (
            get(x, (m.kv_heads * m.head_dim, m.hidden), rows=_wide(kv_heads, m.head_dim))
            for x in ("k", "v")
        )
        out = (m.hidden, m.heads * m.head_dim)
        taken = heads if out_heads is None else out_heads
        return LayerWeights(
            norm_attention=self.gain(name + "norm_attention"),
            qkv=torch.cat([q, k, v]),
            output=get("output", out, columns=_wide(taken, m.head_dim)),
            norm_ffn=self.gain(name + "norm_ffn"),
            ffn_in=get("ffn_in", (m.ffn, m.hidden), rows=ffn),
            ffn_out=get("ffn_out", (m.hidden, m.ffn), columns=ffn),
        )

    def embedding(self) -> Tensor:
        """[V, E], whole."""
        return self.draw("embedding", (self.model.vocab, self.model.hidden)).to(self.dtype)

    def gain(self, name: str) -> Tensor:
        """A norm's gain [E]."""
        return self.draw(name, (self.model.hidden,), gain=True).to(self.dtype)

    def _getter(self, prefix: str) -> Callable[..., Tensor]:
        def get(name: str, shape, *, rows: range | None = None, columns: range | None = None):
            whole = self.draw(prefix + name, shape)
            if rows is not None:
                whole = whole[rows.start : rows.stop]
            if columns is not None:
                whole = whole[:, columns.start : columns.stop]
            return whole.to(self.dtype).contiguous()

        return get


def _wide(heads: range, dim: int) -> range:
    return range(heads.start * dim, heads.stop * dim)
