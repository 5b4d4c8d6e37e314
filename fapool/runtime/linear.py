"""Who multiplies few rows with weights, and how: our kernels or torch's matmul.

    shapes:  T tokens, E inputs, N outputs

The forms are those that were the fastest on an H200 in bf16, between kernels of a decode step; see
benchmarks/linear.py. A choice depends on T, N, E and the device alone, so equal shapes have equal
roundings.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

try:
    from fapool.runtime.kernels import linear as kernels
except ImportError:
    kernels = None

HALF = (torch.bfloat16, torch.float16)
LEAST_TOKENS, MOST_TOKENS = 9, 64
"""For the tensor cores: with 3 to 8 rows, and with more than 64, torch is as fast or faster."""

ROWS, DEPTH = 64, 128
"""Of a tile of weights for the tensor cores: 16 KiB."""


def linear(x: Tensor, w: Tensor, *, gelu: bool = False, dtype: torch.dtype | None = None) -> Tensor:
    """x [T, E], w [N, E] -> x w^T [T, N], or its exact GELU, rounded once to `dtype` (x's own)."""
    dtype = dtype or x.dtype
    form = form_of(x, w)
    if form is None:
        product = x @ w.T
        return (torch.ops.aten.gelu_(product) if gelu else product).to(dtype)
    out = torch.empty(len(x), len(w), dtype=dtype, device=x.device)
    return kernels.linear(x.contiguous(), w, out, form, gelu=gelu)


def form_of(x: Tensor, w: Tensor) -> kernels.Form | None:
    """The form for x [T, E] and w [N, E]; none where torch is as fast or no kernel fits."""
    fits = x.dtype in HALF and w.dtype == x.dtype and w.is_contiguous() and w.numel() < 2**31
    if kernels is None or not x.is_cuda or not fits:
        return None
    processors, tensor_cores = _device(x.device)
    return choose(*x.shape, len(w), processors=processors, tensor_cores=tensor_cores)


@cache
def choose(
    tokens: int, inputs: int, outputs: int, *, processors: int, tensor_cores: bool
) -> kernels.Form | None:
    """By shape and number of multiprocessors; `tensor_cores`: whether ours are known to be fast."""
    if tokens in (1, 2):
        return _strips(tokens, inputs, outputs)
    if not LEAST_TOKENS <= tokens <= MOST_TOKENS or not tensor_cores or inputs % DEPTH:
        return None
    padded = 16 if tokens <= 16 else 32 if tokens <= 32 else 64
    tiles, parts = -(-outputs // ROWS), 1
    if 2 * tiles <= processors:  # too few, so rows are shared: unless they are short
        if padded == 64 and 2048 < inputs < 8192:
            return None
        parts = 2 if inputs > 2048 and inputs % (2 * DEPTH) == 0 else 1
        deep = {16: (6, 4), 32: (5, 8)} if inputs >= 8192 else {}
    elif tiles <= processors:  # each has a multiprocessor to itself
        deep = {16: (6, 4), 32: (5, 8), 64: (5, 8)}
    else:
        deep = {64: (3, 4)}
    stages, warps = deep.get(padded, (4, 4))
    return kernels.Form(
        rows=ROWS, depth=DEPTH, stages=stages, warps=warps, parts=parts, tokens=padded
    )


def _strips(tokens: int, inputs: int, outputs: int) -> kernels.Form | None:
    """Registers hold T x rows x depth / threads sums, and the weights that are on their way."""
    many = outputs > 12288
    if inputs % 1024 or (many and tokens > 1):
        return None
    if tokens > 1:
        rows, depth, stages = 2, 1024, 1
    elif many:
        rows, depth, stages = 8, 1024, 3
    else:
        rows, depth, stages = (4, 1024, 1) if inputs % 4096 else (2, 4096, 1)
    return kernels.Form(rows=rows, depth=depth, stages=stages, warps=4, tokens=tokens)


@cache
def _device(device: torch.device) -> tuple[int, bool]:
    """Its multiprocessors, and whether it is of the kind that the tiles were measured on."""
    found = torch.cuda.get_device_properties(device)
    return found.multi_processor_count, (found.major, found.minor) >= (9, 0)
