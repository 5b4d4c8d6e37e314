"""The pool's end of the exchange by one-sided stores; see symmetric_base.py for the memory.

shapes:  B rows, H heads of a base rank, Hg heads and Kg KV heads of a head group, D head dim,
         E ends of a link
"""

from __future__ import annotations

import torch
from torch import Tensor

from fapool.phases import Phase
from fapool.runtime.attention.base import Unmerged
from fapool.runtime.exchange.arena import Arena
from fapool.runtime.exchange.layout import base_places, flags_of, pool_places
from fapool.runtime.exchange.link import Append, Route
from fapool.runtime.exchange.symmetric_base import WIRE, SymmetricLink
from fapool.runtime.kernels import exchange as kernels
from fapool.runtime.kernels.answer import answer_items
from fapool.runtime.kernels.combine import shape_of
from fapool.runtime.kernels.signals import SENDERS
from fapool.runtime.partial import Partial


class SymmetricPoolLink(SymmetricLink):
    """See `PoolLink`."""

    def __init__(self, at: Route, arena: Arena, rows: int, dtype: torch.dtype, **options):
        super().__init__(at, arena, rows, dtype, **options)
        dim, places = at.head_dim, pool_places(at, rows, dtype)
        counts = at.group_heads, at.group_kv_heads, at.group_kv_heads
        self._qkv = [
            arena.local(place, (rows, n, dim), dtype)
            for place, n in zip(places, counts, strict=False)
        ]
        self._routes = torch.tensor(
            [self._way_back(end, rows) for end in at.ends],
            device=self._epoch.device,
            dtype=torch.int64,
        )

    def _way_back(self, end, rows: int) -> list[int]:
        """Row of `kernels.answer`'s routes."""
        # Where a base keeps lse depends on its number of columns, which is that of every base.
        out, lse = base_places(self._at, rows, self._dtype, self._at.columns)[:2]
        part = end.index * rows * self._heads
        offsets = (
            flags_of(end.index),
            out + part * self._at.head_dim * self._dtype.itemsize,
            lse + part * 4,
        )
        return [*(self._arena.address(end.rank, o) for o in offsets), end.heads.start]

    def queries(self, layer: int, append: Append | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """See `PoolLink.queries`."""
        at = self._at
        q, k, v = (x[: self._rows] for x in self._qkv)
        k_pages, v_pages, slots = append or (k, v, self._flags)
        assert k_pages.is_contiguous() and v_pages.is_contiguous() and slots.dtype == torch.int32
        ctas = self._ctas(at.group_kv_heads, self._tile) if append else 1
        with self._spans.waits(Phase.WAIT_QUERY, layer, self._sizes(2)):
            kernels.queries[(min(ctas, 2 * SENDERS.value),)](
                self._flags, k, v, k_pages, v_pages, slots, self._epoch, self.stamps, layer,
                self._rows, self._width, self._patience, ENDS=len(at.ends),
                KV_HEADS=at.group_kv_heads, DIM=at.head_dim, TILE=self._tile,
                APPENDS=append is not None, STAMPED=self._stamped,
            )  # fmt: skip
        return q, k, v

    def answer(self, layer: int, part: Partial) -> None:
        """See `PoolLink.answer`."""
        at, out, lse = self._at, part.out, part.lse
        assert out.shape == (self._rows, at.group_heads, at.head_dim) and out.stride(-1) == 1
        with self._spans.sends(Phase.SEND_PARTIALS, layer, self._sizes(0)):
            kernels.answer[(self._answer_width, len(at.ends))](
                out, lse, self._routes, self._epoch, self.stamps, layer, self._rows,
                *out.stride()[:2], *lse.stride(), HEADS=self._heads, DIM=at.head_dim,
                TILE=self._tile, WIRE=WIRE[self._dtype], STAMPED=self._stamped,
            )  # fmt: skip
        self._spans.next_layer()

    def answer_items(self, layer: int, items: Unmerged) -> None:
        """See `PoolLink.answer_items`."""
        at, heads = self._at, self._at.group_heads
        assert self.takes_items and items.out.shape[1:] == (heads, at.head_dim)
        at_once, warps = shape_of(self._rows, len(items.lse))
        with self._spans.sends(Phase.SEND_PARTIALS, layer, self._sizes(0)):
            answer_items[(self._answer_width, len(at.ends))](
                *items, self._routes, self._epoch, self.stamps, layer, self._rows,
                HEADS=self._heads, GROUP_HEADS=heads, DIM=at.head_dim, AT_ONCE=at_once,
                WIRE=WIRE[self._dtype], STAMPED=self._stamped, num_warps=warps,
            )  # fmt: skip
        self._spans.next_layer()

    def _sizes(self, pieces: int) -> list[int]:
        """Elements of q and of `pieces` of k, v that pass at each end."""
        row = [len(end.heads) + pieces * len(end.kv_heads) for end in self._at.ends]
        return [self._rows * heads * self._at.head_dim for heads in row]
