"""Chains of elementwise operations as one Triton kernel each.

    shapes:  T tokens, E hidden, H heads, K KV heads, D head dim, N blocks, P tokens of a block

Arithmetic is fp32 (fp64 for angles) whatever the values are; a result is rounded to the values'
dtype wherever a chain of torch kernels would round it. No kernel waits for the host, allocates
anything but its results, or is compiled anew when T changes within a tile size.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fapool.runtime.kernels.chaining import chains, gdc_launch_dependents, gdc_wait

PER_WARP = 256
"""Elements: 8 for each thread, 16 bytes of half precision in one access."""


def add_norm(x: Tensor, delta: Tensor | None, gain: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """x, delta [T, E], gain [E] -> (x + delta, its RMSNorm), [T, E] each."""
    x = x.contiguous()
    tokens, width = x.shape
    block = triton.next_power_of_2(width)
    total = x if delta is None else torch.empty_like(x)
    normed = torch.empty_like(x)
    _add_norm[(tokens,)](
        x,
        x if delta is None else delta.contiguous(),
        gain,
        total,
        normed,
        eps,
        WIDTH=width,
        BLOCK=block,
        ADDS=delta is not None,
        CHAIN=chains(x.device),
        num_warps=_warps(block),
        launch_pdl=chains(x.device),
    )
    return total, normed


def rotation(positions: Tensor, frequencies: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Positions [T], frequencies [D/2] fp64 -> cos and sin of their products, [T, D/2] each."""
    half, block = len(frequencies), PER_WARP
    cos, sin = torch.empty(2, len(positions), half, dtype=dtype, device=positions.device)
    angles = cos.numel()
    _rotation[(triton.cdiv(angles, block),)](
        positions.contiguous(), frequencies, cos, sin, angles, HALF=half, BLOCK=block
    )
    return cos, sin


def rotate(
    qkv: Tensor, cos: Tensor, sin: Tensor, heads: int, kv_heads: int
) -> tuple[Tensor, Tensor, Tensor]:
    """qkv [T, (H + 2 K) D], cos and sin [T, D/2] -> q [T, H, D], k and v [T, K, D], contiguous."""
    tokens, half = cos.shape
    parts = (heads, kv_heads, kv_heads)
    assert qkv.shape == (tokens, sum(parts) * 2 * half)
    block = triton.next_power_of_2(half)
    tile = 1 if tokens <= 16 else 4 if tokens <= 256 else 16
    out = torch.empty(qkv.numel(), dtype=qkv.dtype, device=qkv.device)
    _rotate[(triton.cdiv(tokens, tile), sum(parts))](
        qkv.contiguous(),
        cos,
        sin,
        out,
        tokens,
        HEADS=heads,
        KV_HEADS=kv_heads,
        HALF=half,
        TILE=tile,
        BLOCK=block,
        CHAIN=chains(qkv.device),
        num_warps=_warps(tile * block),
        launch_pdl=chains(qkv.device),
        enable_fp_fusion=False,  # a fused multiply-add would leave out one rounding of two
    )
    pieces = out.split([tokens * part * 2 * half for part in parts])
    q, k, v = (x.view(tokens, part, 2 * half) for x, part in zip(pieces, parts, strict=True))
    return q, k, v


def append(k_pages: Tensor, v_pages: Tensor, slots: Tensor, k: Tensor, v: Tensor) -> None:
    """Write k, v [T, K, D] at `slots` [T] of pages [N, P, K, D]; negative slots write nothing."""
    assert k_pages.is_contiguous() and v_pages.is_contiguous()
    k, v = k.flatten(1), v.flatten(1)  # views, unless the heads of a token are scattered
    tokens, width = k.shape
    block = min(triton.next_power_of_2(width), 4 * PER_WARP)
    _append[(tokens, triton.cdiv(width, block))](
        k_pages,
        v_pages,
        slots.contiguous(),
        k,
        v,
        k.stride(0),
        v.stride(0),
        WIDTH=width,
        BLOCK=block,
        num_warps=_warps(block),
    )


def _warps(elements: int) -> int:
    return max(1, min(16, elements // PER_WARP))


@triton.jit
def _add_norm(
    x_ptr,
    delta_ptr,
    gain_ptr,
    total_ptr,
    normed_ptr,
    eps,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    ADDS: tl.constexpr,
    CHAIN: tl.constexpr,
):
    """One program per token."""
    if CHAIN:
        gdc_launch_dependents()
        gdc_wait()
    row = tl.program_id(0).to(tl.int64) * WIDTH
    at = tl.arange(0, BLOCK)
    inside = at < WIDTH
    x = tl.load(x_ptr + row + at, mask=inside, other=0.0)
    gain = tl.load(gain_ptr + at, mask=inside, other=0.0).to(tl.float32)
    if ADDS:
        delta = tl.load(delta_ptr + row + at, mask=inside, other=0.0)
        x = (x.to(tl.float32) + delta.to(tl.float32)).to(x_ptr.dtype.element_ty)
        tl.store(total_ptr + row + at, x, mask=inside)
    wide = x.to(tl.float32)
    scale = tl.rsqrt(tl.sum(wide * wide, axis=0) / WIDTH + eps)
    normed = (wide * scale * gain).to(normed_ptr.dtype.element_ty)
    tl.store(normed_ptr + row + at, normed, mask=inside)


@triton.jit(do_not_specialize=["angles"])
def _rotation(
    positions_ptr,
    frequencies_ptr,
    cos_ptr,
    sin_ptr,
    angles,
    HALF: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program per `BLOCK` angles; by way of fp32, as torch narrows fp64."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < angles
    position = tl.load(positions_ptr + at // HALF, mask=inside, other=0).to(tl.float64)
    frequency = tl.load(frequencies_ptr + at % HALF, mask=inside, other=0.0)
    angle = position * frequency
    cos, sin = tl.cos(angle).to(tl.float32), tl.sin(angle).to(tl.float32)
    tl.store(cos_ptr + at, cos.to(cos_ptr.dtype.element_ty), mask=inside)
    tl.store(sin_ptr + at, sin.to(sin_ptr.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["tokens"])
def _rotate(
    qkv_ptr,
    cos_ptr,
    sin_ptr,
    out_ptr,
    tokens,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HALF: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK: tl.constexpr,
    CHAIN: tl.constexpr,
):
    """One program per head and `TILE` tokens. `out` holds all q, then all k, then all v."""
    if CHAIN:
        gdc_launch_dependents()
        gdc_wait()
    dtype = out_ptr.dtype.element_ty
    head = tl.program_id(1)
    token = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)[:, None]
    at = tl.arange(0, BLOCK)[None, :]
    inside = (token < tokens) & (at < HALF)
    source = qkv_ptr + (token * (HEADS + 2 * KV_HEADS) + head) * (2 * HALF) + at
    left = tl.load(source, mask=inside, other=0.0).to(tl.float32)
    right = tl.load(source + HALF, mask=inside, other=0.0).to(tl.float32)
    if head < HEADS + KV_HEADS:
        cos = tl.load(cos_ptr + token * HALF + at, mask=inside, other=0.0).to(tl.float32)
        sin = tl.load(sin_ptr + token * HALF + at, mask=inside, other=0.0).to(tl.float32)
        turned = _rounded(left * cos, dtype) - _rounded(right * sin, dtype)
        right = _rounded(right * cos, dtype) + _rounded(left * sin, dtype)
        left = turned
    num_heads = tl.where(head < HEADS, HEADS, KV_HEADS)
    before = tl.where(head < HEADS, 0, tl.where(head < HEADS + KV_HEADS, HEADS, HEADS + KV_HEADS))
    row = token * num_heads + (head - before) + before * tokens.to(tl.int64)
    target = out_ptr + row * (2 * HALF) + at
    tl.store(target, left.to(dtype), mask=inside)
    tl.store(target + HALF, right.to(dtype), mask=inside)


@triton.jit
def _rounded(x, dtype: tl.constexpr):
    return x.to(dtype).to(tl.float32)


@triton.jit
def _append(
    k_pages_ptr,
    v_pages_ptr,
    slots_ptr,
    k_ptr,
    v_ptr,
    k_stride,
    v_stride,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program per token and `BLOCK` elements; no load waits for the slot."""
    token = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < WIDTH
    slot = tl.load(slots_ptr + token).to(tl.int64)
    k = tl.load(k_ptr + token * k_stride + at, mask=inside, other=0.0)
    v = tl.load(v_ptr + token * v_stride + at, mask=inside, other=0.0)
    kept = inside & (slot >= 0)
    tl.store(k_pages_ptr + slot * WIDTH + at, k, mask=kept)
    tl.store(v_pages_ptr + slot * WIDTH + at, v, mask=kept)
