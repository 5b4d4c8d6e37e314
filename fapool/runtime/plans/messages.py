"""How queries, keys and partials are laid out in a message; flat, in the model's dtype.

query message     [q  nA x H x D][k  nS x K x D][v  nS x K x D]      base -> pool
partial message   [out nA x H x D][lse nA x H, fp32 seen as dtype]   pool -> base
moved keys        [k  L x n x K x D][v  L x n x K x D]               base -> pool, once a lease
"""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from fapool.runtime.partial import Partial, lse_dtype


def pack(*tensors: Tensor) -> Tensor:
    """One flat tensor of all of them."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def unpack(flat: Tensor, *shapes: tuple[int, ...]) -> list[Tensor]:
    """The tensors that `pack` was given, as views."""
    sizes = [prod(shape) for shape in shapes]
    pieces = flat.split(sizes)
    return [piece.view(shape) for piece, shape in zip(pieces, shapes, strict=True)]


def partial_size(tokens: int, heads: int, dim: int, dtype: torch.dtype) -> int:
    """Elements of a partial message."""
    return tokens * heads * (dim + lse_dtype(dtype).itemsize // dtype.itemsize)


def pack_partial(part: Partial) -> Tensor:
    """A partial as one message."""
    return pack(part.out, part.lse.contiguous().view(-1).view(part.out.dtype))


def unpack_partial(flat: Tensor, tokens: int, heads: int, dim: int) -> Partial:
    """The partial in a message, as views."""
    body = tokens * heads * dim
    lse = flat[body:].view(lse_dtype(flat.dtype)).view(tokens, heads)
    return Partial(flat[:body].view(tokens, heads, dim), lse)
