"""The fixed-shape exchange by one-sided stores into memory that the GPUs of a node share.

One kernel per call, none of them waits for the host; see runtime/kernels/exchange.py for the order
that makes one set of buffers enough. Memory of each rank, a link (offsets alike on all ranks):

    base   [flags][out n x R x H x D][lse n x R x H fp32]            R: rows that the link is for
    pool   [flags][q R x Hg x D][k R x Kg x D][v R x Kg x D]

    shapes:  B rows, H heads of a base rank, Hg heads and Kg KV heads of a head group, D head dim,
             n columns, E ends of a link
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from fapool.phases import Phase
from fapool.runtime.exchange.arena import Arena
from fapool.runtime.exchange.layout import FLAGS, base_places, flags_of, pool_places
from fapool.runtime.exchange.link import Route
from fapool.runtime.exchange.link_spans import LinkSpans
from fapool.runtime.kernels import exchange as kernels
from fapool.runtime.kernels.signals import SENDERS, STRIDE
from fapool.runtime.partial import Partial

assert STRIDE.value == FLAGS
CTA_BYTES = 4096  # that one CTA stores, where there are not too many
TILE_BYTES = 4096  # 128 threads, twice 16 bytes each
MERGE_BYTES = 2048  # of one partial that one CTA merges
FEW_HEADS = 4 * SENDERS.value  # rows x heads of a base up to which a CTA merges items on its way
WIRE = {t: getattr(triton.language, str(t)[6:]) for t in (torch.float16, torch.bfloat16)} | {
    torch.float32: triton.language.float32
}


class SymmetricLink:
    """What both ends have: an arena, flags, the number of the message, how work is cut."""

    transport = "symmetric"

    def __init__(
        self,
        at: Route,
        arena: Arena,
        rows: int,
        dtype: torch.dtype,
        *,
        spans: LinkSpans,
        patience: int,
    ) -> None:
        self._at, self._limit, self._rows, self._dtype = at, rows, rows, dtype
        self._spans, self._patience, self._arena = spans, patience, arena
        self.held_bytes = arena.num_bytes
        self._heads = heads = at.base_heads
        self._row_bytes = heads * at.head_dim * dtype.itemsize
        device = arena.local(0, (1,), torch.int32).device
        self._epoch = torch.zeros(1, dtype=torch.int32, device=device)
        self._flags = arena.local(0, (max(1, len(at.ends)) * FLAGS,), torch.int32)
        self._tile = max(1, TILE_BYTES // (power_of_two(at.head_dim) * dtype.itemsize))
        self.stamps: Tensor | None = None
        """[layers, 2, 3] int64, ns of the device's clock, written by every call where it is given:
        (ask or queries; answer or collect) by (begun, all has arrived, ended)."""

    def begin(self, rows: int | None = None) -> None:
        """See `BaseLink.begin`."""
        self._rows = self._limit if rows is None else rows
        assert 0 < self._rows <= self._limit
        self._epoch.add_(self._at.layers)

    @property
    def _width(self) -> int:
        """CTAs that send one piece: arithmetic that both ends do alike."""
        return max(1, min(SENDERS.value, -(-self._rows * self._row_bytes // CTA_BYTES)))

    @property
    def _answer_width(self) -> int:
        """CTAs that send an answer, likewise: in small batches enough to merge items besides."""
        return SENDERS.value if self.takes_items else self._width

    @property
    def takes_items(self) -> bool:
        """Whether a step is so small that items are merged as they are sent: see `PoolLink`."""
        dim = self._at.head_dim
        return self._rows * self._heads <= FEW_HEADS and power_of_two(dim) == dim

    @property
    def _stamped(self) -> bool:
        return self.stamps is not None

    def _ctas(self, heads: int, tile: int) -> int:
        return -(-self._rows * heads // tile)


class SymmetricBaseLink(SymmetricLink):
    """See `BaseLink`."""

    def __init__(self, at: Route, arena: Arena, rows: int, dtype: torch.dtype, **options):
        super().__init__(at, arena, rows, dtype, **options)
        places = pool_places(at, rows, dtype)
        item, dim, own = dtype.itemsize, at.head_dim, base_places(at, rows, dtype, len(at.ends))
        first = (at.heads.start * dim * item, *(2 * [at.kv_heads.start * dim * item]))
        self._routes = torch.tensor(
            [
                [arena.address(end.rank, flags_of(end.index))]
                + [arena.address(end.rank, p + f) for p, f in zip(places, first, strict=False)]
                for end in at.ends
            ],
            device=self._epoch.device,
            dtype=torch.int64,
        )
        self._out = arena.local(own[0], (len(at.ends), rows, self._heads, dim), dtype)
        self._lse = arena.local(own[1], (len(at.ends), rows, self._heads), torch.float32)

    def ask(self, layer: int, q: Tensor, k: Tensor, v: Tensor, owner: Tensor | None = None) -> None:
        """See `BaseLink.ask`."""
        at = self._at
        if not at.ends:
            return
        assert q.shape == (self._rows, self._heads, at.head_dim) and q.dtype == self._dtype
        assert k.shape == v.shape == (self._rows, len(at.kv_heads), at.head_dim)
        assert q.stride(-1) == k.stride(-1) == v.stride(-1) == 1
        strides = [x.stride(i) for x in (q, k, v) for i in (0, 1)]
        # A tensor without heads has no memory, and no kernel reads it.
        k, v = (k, v) if k.numel() else (q, q)
        sizes = [self._rows * (self._heads + 2 * len(at.kv_heads)) * at.head_dim] * len(at.ends)
        with self._spans.sends(Phase.SEND_QUERY, layer, sizes):
            kernels.ask[(self._width, len(at.ends), 3)](
                q, k, v, owner, self._routes, self._epoch, self.stamps, layer, self._rows,
                *strides, HEADS=self._heads, KV_HEADS=len(at.kv_heads),
                GROUP_HEADS=at.group_heads, GROUP_KV_HEADS=at.group_kv_heads, DIM=at.head_dim,
                TILE=self._tile, STAMPED=self._stamped,
            )  # fmt: skip

    def collect(self, layer: int, own: Partial | None) -> Tensor:
        """See `BaseLink.collect`."""
        at, shape = self._at, (self._rows, self._heads, self._at.head_dim)
        if not at.ends:
            return own.out.to(self._dtype)
        merged = torch.empty(shape, dtype=self._dtype, device=self._epoch.device)
        out, lse = (self._out[0], self._lse[0]) if own is None else (own.out, own.lse)
        assert out.stride(-1) == 1
        tile = max(1, MERGE_BYTES // (power_of_two(at.head_dim) * self._dtype.itemsize))
        sizes = [self._rows * self._heads * at.head_dim] * len(at.ends)
        with self._spans.waits(Phase.WAIT_PARTIALS, layer, sizes):
            kernels.collect[(self._ctas(self._heads, tile),)](
                self._flags, self._out, self._lse, out, lse, merged, self._epoch, self.stamps,
                layer, self._rows, self._answer_width, self._patience, *out.stride()[:2],
                *lse.stride(), COLUMNS=len(at.ends), COLUMN=self._limit * self._heads,
                HEADS=self._heads, DIM=at.head_dim, TILE=tile, OWN=own is not None,
                STAMPED=self._stamped,
            )  # fmt: skip
        self._spans.next_layer()
        return merged


def power_of_two(number: int) -> int:
    """The least power of two that is no smaller."""
    return triton.next_power_of_2(number)
