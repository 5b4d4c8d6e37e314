"""cuDNN's attention on few shapes, whatever the lengths: no plan is compiled for each of them.

cuDNN compiles a plan for every new pair of lengths, 40 to 70 ms each on an H100: as long as it
attends 2,048 queries over 40,000 tokens of keys in four layers. So keys are cut into tiles whose
lengths are powers of two grains, and queries that fill no grain go to torch's FlashAttention-2:

    13.5 grains of keys   [        8        ][    4    ][ 1 ]  cuDNN    [.5]  FlashAttention-2
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from fapool.pieces import GRAIN
from fapool.runtime.attention.aten import Aten
from fapool.runtime.attention.base import flat
from fapool.runtime.attention.cudnn import Cudnn
from fapool.runtime.partial import Partial
from fapool.runtime.sequence.merging import merge_into


class CudnnTiled:
    """`Cudnn` for whole tiles and `Aten` for what is left, merged."""

    name, grain = "cudnn_tiled", GRAIN

    def __init__(self) -> None:
        self._tiles, self._rest = Cudnn(), Aten()

    def unfit(self, *, device: torch.device, dtype: torch.dtype, head_dim: int) -> str | None:
        """Fits where cuDNN's attention and torch's own both do."""
        where = {"device": device, "dtype": dtype, "head_dim": head_dim}
        return self._tiles.unfit(**where) or self._rest.unfit(**where)

    def dense(self, q: Tensor, k: Tensor, v: Tensor, *, causal: bool) -> tuple[Tensor, Tensor]:
        """See `Backend.dense`."""
        if q.shape[1] % GRAIN:
            return self._rest.dense(q, k, v, causal=causal)
        if causal:
            return self._tiles.dense(q, k, v, causal=True)
        first, *others = [self._part(q, k[:, at], v[:, at]) for at in tiles(k.shape[1])]
        merge_into(first, others)
        rows = q.shape[:2]
        return first.out.unflatten(0, rows), first.lse.unflatten(0, rows).transpose(1, 2)

    def _part(self, q: Tensor, k: Tensor, v: Tensor) -> Partial:
        kernel = self._tiles if k.shape[1] >= GRAIN else self._rest
        part = flat(*kernel.dense(q, k, v, causal=False))
        return Partial(part.out.contiguous(), part.lse)


def tiles(length: int) -> Iterator[slice]:
    """Cut [0, length) into tiles of GRAIN times a power of two, the longest first, and a rest."""
    grains, start = length // GRAIN, 0
    for power in reversed(range(grains.bit_length())):
        if grains >> power & 1:
            yield slice(start, start := start + (GRAIN << power))
    if start < length:
        yield slice(start, length)
