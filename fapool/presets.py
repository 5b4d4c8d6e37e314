"""Named model sizes, as plain data."""

from __future__ import annotations

from types import MappingProxyType

_PAPER = {
    "layers": 4,
    "hidden": 4096,
    "heads": 32,
    "kv_heads": 32,
    "head_dim": 128,
    "ffn": 16384,
    "vocab": 32000,
    "dtype": "bfloat16",
}

MODELS = MappingProxyType(
    {
        "tiny": {
            "layers": 2,
            "hidden": 64,
            "heads": 8,
            "kv_heads": 4,
            "head_dim": 16,
            "ffn": 128,
            "vocab": 256,
            "dtype": "float32",
        },
        "cpu": {
            "layers": 4,
            "hidden": 256,
            "heads": 8,
            "kv_heads": 8,
            "head_dim": 32,
            "ffn": 1024,
            "vocab": 2048,
            "dtype": "float32",
        },
        "paper-4l": _PAPER,
        "paper-4l-gqa": _PAPER | {"kv_heads": 8},
        "paper-4l-mqa": _PAPER | {"kv_heads": 1},
        "13b": _PAPER | {"layers": 65},
    }
)
"""`paper-4l` is the paper's model (section 4.1: 4 layers, hidden 4096, 32 heads, FFN 16384, which
hold 0.8 B parameters); `13b` has as many such layers as its "13B" would need."""
