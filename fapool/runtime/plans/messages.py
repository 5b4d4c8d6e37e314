"""How the keys that move when a lease is granted are laid out in a message: flat, end to end.

moved keys   [k  L x n x K x D][v  L x n x K x D]      base -> pool, once a lease
"""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor


def pack(*tensors: Tensor) -> Tensor:
    """One flat tensor of all of them."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def unpack(flat: Tensor, *shapes: tuple[int, ...]) -> list[Tensor]:
    """The tensors that `pack` was given, as views."""
    sizes = [prod(shape) for shape in shapes]
    pieces = flat.split(sizes)
    return [piece.view(shape) for piece, shape in zip(pieces, shapes, strict=True)]
