"""Products of few rows with weights, as fast as the weights come from memory.

    shapes:  T tokens, E inputs, N outputs, S parts of E

A program computes some outputs of all tokens, so every weight is read once: with a few tokens
straight into registers (`_strips`), above that by way of shared memory into the tensor cores
(`_tiles`), which take the weights as their left operand and so pad T, not N. Where the outputs are
too few for the device, programs share an output's inputs, and a second kernel adds up what they
found, in order. While the kernel ahead is at work, programs ask for the first lines of their rows:
few, as more would hold it up (tiles lost 1 us with 8 lines and 10 us with whole rows on an H200).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from fapool.runtime.kernels.chaining import chains, gdc_launch_dependents, gdc_wait

ADDED = 1024
"""Sums of parts that one program makes."""

LINE = tl.constexpr(64)
"""Half-precision elements of a line of L2: 128 bytes."""


@dataclass(frozen=True, kw_only=True)
class Form:
    """How a product is cut; `depth` divides E / `parts`."""

    rows: int  # outputs of a program
    depth: int  # inputs that it takes at once
    stages: int  # such tiles on their way or in use
    warps: int
    parts: int = 1  # programs that share an output: S
    tokens: int  # T is padded to this

    @property
    def strips(self) -> bool:
        """Whether registers hold the weights."""
        return self.tokens <= 4


def linear(x: Tensor, w: Tensor, out: Tensor, form: Form, *, gelu: bool = False) -> Tensor:
    """x [T, E], w [N, E], contiguous, half precision -> out [T, N] = x w^T, or its exact GELU."""
    (tokens, inputs), outputs = x.shape, len(w)
    share = inputs // form.parts
    assert tokens <= form.tokens and share % form.depth == 0, f"{form} of {tuple(x.shape)}"
    chain = chains(x.device)
    parts = out
    if form.parts > 1:
        parts = torch.empty(form.parts, *out.shape, dtype=torch.float32, device=x.device)
    kernel = _strips if form.strips else _tiles
    kernel[(triton.cdiv(outputs, form.rows), form.parts)](
        x,
        w,
        parts,
        tokens,
        outputs,
        inputs,
        T=form.tokens,
        N=form.rows,
        D=form.depth,
        SHARE=share,
        STAGES=form.stages,
        GELU=gelu and form.parts == 1,
        CHAIN=chain,
        num_warps=form.warps,
        launch_pdl=chain,
    )
    if form.parts > 1:
        _add_parts[(triton.cdiv(out.numel(), ADDED),)](
            parts,
            out,
            out.numel(),
            S=form.parts,
            BLOCK=ADDED,
            GELU=gelu,
            CHAIN=chain,
            launch_pdl=chain,
        )
    return out


@triton.jit
def _begin(row, SHARE: tl.constexpr, LINES: tl.constexpr, CHAIN: tl.constexpr):
    """L2 is where all kernels meet: what is asked for early is no older than what is read later."""
    if CHAIN:
        line = row[:, None] + (tl.arange(0, LINES) * LINE % SHARE)[None, :]
        tl.inline_asm_elementwise(
            "prefetch.global.L2 [$1]; mov.u32 $0, 0;",
            "=r,l",
            [line.to(tl.int64)],
            dtype=tl.int32,
            is_pure=False,
            pack=1,
        )
        gdc_wait()
        gdc_launch_dependents()


@triton.jit
def _activated(x, GELU: tl.constexpr):
    return 0.5 * x * (1 + tl.erf(x * 0.7071067811865476)) if GELU else x


@triton.jit(do_not_specialize=["tokens"])
def _tiles(
    x_ptr, w_ptr, out_ptr, tokens, outputs, E, T: tl.constexpr, N: tl.constexpr, D: tl.constexpr,
    SHARE: tl.constexpr, STAGES: tl.constexpr, GELU: tl.constexpr, CHAIN: tl.constexpr,
):  # fmt: skip
    """Rows beyond N repeat the last; those beyond T are not read: all programs would meet there."""
    n, t, d = tl.program_id(0) * N + tl.arange(0, N), tl.arange(0, T), tl.arange(0, D)
    part = tl.program_id(1)
    row = tl.minimum(n, outputs - 1)
    _begin(w_ptr + row * E + part * SHARE, SHARE, 1, CHAIN)
    acc = tl.zeros([N, T], tl.float32)
    w_at = w_ptr + row[:, None] * E + (part * SHARE + d)[None, :]
    x_at = x_ptr + t[None, :] * E + (part * SHARE + d)[:, None]
    real = (t < tokens)[None, :]
    for at in tl.range(0, SHARE, D, num_stages=STAGES):
        w = tl.load(w_at + at, eviction_policy="evict_first")
        acc = tl.dot(w, tl.load(x_at + at, mask=real, other=0.0), acc)
    out = out_ptr + (part * tokens + t)[None, :] * outputs + n[:, None]
    inside = real & (n < outputs)[:, None]
    tl.store(out, _activated(acc, GELU).to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["tokens"])
def _strips(
    x_ptr, w_ptr, out_ptr, tokens, outputs, E, T: tl.constexpr, N: tl.constexpr, D: tl.constexpr,
    SHARE: tl.constexpr, STAGES: tl.constexpr, GELU: tl.constexpr, CHAIN: tl.constexpr,
):  # fmt: skip
    """Every thread multiplies what it has read; the threads of a row meet once, at the end."""
    n, t, d = tl.program_id(0) * N + tl.arange(0, N), tl.arange(0, T), tl.arange(0, D)
    part = tl.program_id(1)
    row, token = tl.minimum(n, outputs - 1), tl.minimum(t, tokens - 1)
    _begin(w_ptr + row * E + part * SHARE, SHARE, 8, CHAIN)
    acc = tl.zeros([T, N, D], tl.float32)
    w_at = w_ptr + row[None, :, None] * E + (part * SHARE + d)[None, None, :]
    x_at = x_ptr + token[:, None, None] * E + (part * SHARE + d)[None, None, :]
    for at in tl.range(0, SHARE, D, num_stages=STAGES):
        w = tl.load(w_at + at, eviction_policy="evict_first").to(tl.float32)
        acc += w * tl.load(x_at + at).to(tl.float32)
    out = out_ptr + (part * tokens + t)[:, None] * outputs + n[None, :]
    inside = (t < tokens)[:, None] & (n < outputs)[None, :]
    found = _activated(tl.sum(acc, axis=2), GELU)
    tl.store(out, found.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["items"])
def _add_parts(
    parts_ptr, out_ptr, items, S: tl.constexpr, BLOCK: tl.constexpr, GELU: tl.constexpr,
    CHAIN: tl.constexpr,
):  # fmt: skip
    """parts [S, T, N] fp32 -> out [T, N], always added in the same order."""
    if CHAIN:
        gdc_wait()
        gdc_launch_dependents()
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.float32)
    for part in tl.static_range(S):
        total += tl.load(parts_ptr + part * items + at, mask=at < items, other=0.0)
    tl.store(out_ptr + at, _activated(total, GELU).to(out_ptr.dtype.element_ty), mask=at < items)
