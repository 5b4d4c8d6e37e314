"""The sizes of a model."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from fapool.errors import SpecError
from fapool.presets import MODELS
from fapool.spec.base import Count, Strict


class Model(Strict):
    """A decoder-only transformer: sizes in elements, one dtype for weights, KV and activations."""

    name: str = "custom"
    layers: Count
    hidden: Count
    heads: Count
    kv_heads: Count
    head_dim: Annotated[int, Field(ge=8, le=256, multiple_of=8)]
    ffn: Count
    vocab: Count
    rope_base: Annotated[float, Field(gt=1)] = 10_000.0
    norm_eps: Annotated[float, Field(gt=0, lt=1)] = 1e-6
    dtype: Literal["float64", "float32", "bfloat16", "float16"] = "bfloat16"

    @classmethod
    def preset(cls, name: str, **changes: Any) -> Self:
        """A named size (see `fapool.presets`), with some of its fields changed.

        Raises:
            SpecError: no preset has that name.
        """
        if name not in MODELS:
            raise SpecError("model", name, f"name one of {', '.join(MODELS)}, or give all sizes")
        return cls(**({"name": name} | MODELS[name] | changes))

    @model_validator(mode="after")
    def _heads_group(self) -> Self:
        if self.heads % self.kv_heads:
            raise SpecError("kv_heads", self.kv_heads, f"choose a divisor of heads = {self.heads}")
        return self

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}[self.dtype]

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of the keys and values of one token over all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim * self.itemsize
