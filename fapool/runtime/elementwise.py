"""What the model does beside attention, in torch or with one kernel per operation.

    shapes:  T tokens, E hidden or inputs, O outputs, H heads, K KV heads, D head dim, N blocks,
             P tokens of a block

No operation copies between host and device or waits for the device: all may be captured.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from fapool.runtime.linear import linear

try:
    from fapool.runtime.kernels import elementwise as kernels
except ImportError:
    kernels = None

FUSED = (torch.bfloat16, torch.float16, torch.float32)
"""What the kernels compute exactly enough: fp64 has to stay fp64."""


class Elementwise(Protocol):
    """The operations, on tensors of one device and dtype."""

    def add_norm(
        self, x: Tensor, delta: Tensor | None, gain: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        """x, delta [T, E], gain [E] -> (x + delta, rounded; the RMSNorm of that), [T, E] each.

        `x` is left as it was, and without `delta` comes back itself.
        """

    def rotation(self, positions: Tensor, frequencies: Tensor) -> tuple[Tensor, Tensor]:
        """Positions [T], int32 or int64, frequencies [D/2], fp64 -> cos and sin [T, D/2].

        Angles are fp64, so that a position far out is as exact as a near one.
        """

    def rotate(
        self, qkv: Tensor, cos: Tensor, sin: Tensor, heads: int, kv_heads: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """qkv [T, (H + 2 K) D] -> q [T, H, D] and k [T, K, D] rotated, v [T, K, D]; contiguous.

        Rotary embedding (Su et al. 2021, section 3.2), halves of a head paired.
        """

    def append(self, k_pages: Tensor, v_pages: Tensor, slots: Tensor, k: Tensor, v: Tensor) -> None:
        """Write k, v [T, K, D] at `slots` [T], int32 or int64, of pages [N, P, K, D], contiguous.

        A slot is an index into [N * P]; no two are equal but negative ones, which write nothing.
        """

    def gelu(self, x: Tensor) -> Tensor:
        """The exact GELU, in place."""

    def linear(self, x: Tensor, w: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """x [T, E], w [O, E] -> x w^T [T, O], in `dtype` (x's own)."""

    def linear_gelu(self, x: Tensor, w: Tensor) -> Tensor:
        """The exact GELU of `linear`."""


def operations(device: torch.device, dtype: torch.dtype) -> Elementwise:
    """The fastest that `device` and `dtype` have."""
    fused = kernels is not None and device.type == "cuda" and dtype in FUSED
    return TritonOps(dtype) if fused else TorchOps(dtype)


class TorchOps:
    """Torch's own kernels: any device, any dtype."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def add_norm(
        self, x: Tensor, delta: Tensor | None, gain: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        """See `Elementwise.add_norm`."""
        total = x if delta is None else x + delta
        return total, F.rms_norm(total, total.shape[-1:], gain, eps)

    def rotation(self, positions: Tensor, frequencies: Tensor) -> tuple[Tensor, Tensor]:
        """See `Elementwise.rotation`."""
        angles = positions.double()[:, None] * frequencies
        return angles.cos().to(self.dtype), angles.sin().to(self.dtype)

    def rotate(
        self, qkv: Tensor, cos: Tensor, sin: Tensor, heads: int, kv_heads: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See `Elementwise.rotate`."""
        split = qkv.unflatten(1, (heads + 2 * kv_heads, -1))
        q_and_k, v = split.split([heads + kv_heads, kv_heads], dim=1)
        left, right = q_and_k.chunk(2, dim=-1)
        cos, sin = cos[:, None], sin[:, None]
        turned = torch.cat([left * cos - right * sin, right * cos + left * sin], dim=-1)
        q, k = turned.split([heads, kv_heads], dim=1)
        return q.contiguous(), k.contiguous(), v.contiguous()

    def append(self, k_pages: Tensor, v_pages: Tensor, slots: Tensor, k: Tensor, v: Tensor) -> None:
        """See `Elementwise.append`."""
        if not len(slots):
            return
        # A mask would wait for the device. Instead a skipped row repeats a kept one, and where
        # none is kept, every row writes what is there already.
        kept = slots >= 0
        rows = torch.where(kept, torch.arange(len(slots), device=slots.device), kept.int().argmax())
        at = slots[rows].long().clamp(min=0)
        for pages, new in ((k_pages, k), (v_pages, v)):
            cache = pages.view(-1, *pages.shape[2:])
            cache.index_copy_(0, at, torch.where(kept.any(), new[rows], cache[at]))

    def gelu(self, x: Tensor) -> Tensor:
        """See `Elementwise.gelu`."""
        return torch.ops.aten.gelu_(x)

    def linear(self, x: Tensor, w: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """See `Elementwise.linear`."""
        return (x @ w.T).to(dtype or x.dtype)

    def linear_gelu(self, x: Tensor, w: Tensor) -> Tensor:
        """See `Elementwise.linear_gelu`."""
        return self.gelu(x @ w.T)


class TritonOps(TorchOps):
    """One kernel per operation, on the current CUDA device; GELU is one in torch already.

    Where products have few rows, those too are ours; see fapool/runtime/linear.py.
    """

    def add_norm(
        self, x: Tensor, delta: Tensor | None, gain: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        """See `Elementwise.add_norm`."""
        return kernels.add_norm(x, delta, gain, eps)

    def rotation(self, positions: Tensor, frequencies: Tensor) -> tuple[Tensor, Tensor]:
        """See `Elementwise.rotation`."""
        return kernels.rotation(positions, frequencies, self.dtype)

    def rotate(
        self, qkv: Tensor, cos: Tensor, sin: Tensor, heads: int, kv_heads: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See `Elementwise.rotate`."""
        return kernels.rotate(qkv, cos, sin, heads, kv_heads)

    def append(self, k_pages: Tensor, v_pages: Tensor, slots: Tensor, k: Tensor, v: Tensor) -> None:
        """See `Elementwise.append`."""
        kernels.append(k_pages, v_pages, slots, k, v)

    def linear(self, x: Tensor, w: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """See `Elementwise.linear`."""
        return linear(x, w, dtype=dtype)

    def linear_gelu(self, x: Tensor, w: Tensor) -> Tensor:
        """See `Elementwise.linear_gelu`."""
        return linear(x, w, gelu=True)
