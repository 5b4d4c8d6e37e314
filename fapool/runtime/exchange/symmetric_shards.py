"""Partials of a decode step among ranks that share keys, by one-sided stores: what `Shards` does
with messages, in two kernels a layer, none of which waits for the host.

    shapes:  B rows, S ranks that share the keys, H heads of them all, h = H/S of one, D head dim

Memory of each rank (offsets alike on all), R rows that it is for, C = 2 or 3 sets of buffers:

    [flags of S-1 peers][out C x (S-1) x R x h x D][lse C x (S-1) x R x h fp32]

No rank writes what a peer still reads. Number the exchanges m = epoch + layer; all ranks make all
of them, in this order, each on one stream. Uses of one set are 2 exchanges apart at least (see
`set_of`). Rank p stores exchange m + 2 or a later one after its collect of m + 1 has ended. That
waited for the flag of every peer r at m + 1, which r raised in its answer of m + 1, a kernel that
began after r's collect of m had ended: r had read what m brought. A sum over the ranks between two
layers, which would make one set enough, is not needed for this. Flags may run ahead by one:
`wait_for` asks for a number at least as high, and a CTA raises its flag of m + 1 after that of m.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from fapool.runtime.exchange.arena import Arena
from fapool.runtime.exchange.collective import Collective
from fapool.runtime.exchange.layout import FLAGS, flags_of, laid_out
from fapool.runtime.exchange.symmetric_base import CTA_BYTES, MERGE_BYTES, TILE_BYTES, WIRE
from fapool.runtime.kernels import exchange as kernels
from fapool.runtime.kernels.signals import SENDERS
from fapool.runtime.partial import Partial

LEAST_LAYERS = 2
"""With one layer, each exchange would write what the one before it wrote."""


def sets(layers: int) -> int:
    """Sets of buffers that a model of `layers` layers takes."""
    return 2 + layers % 2


def set_of(layer: int, layers: int) -> int:
    """The set of buffers of a layer: by parity, and an odd model's last layer has its own.

    The layers before and after it, step after step, have other ones.
    """
    return 2 if layers % 2 and layer == layers - 1 else layer % 2


class SymmetricShards:
    """The exchange on one rank, for steps of at most `rows` rows; collective over `peers`.

    A kernel that has polled its flags `patience` times traps; 0: waits for ever.
    """

    transport = "symmetric"

    def __init__(
        self,
        peers: Collective,
        arena_of,
        *,
        rows: int,
        layers: int,
        heads: int,
        dim: int,
        dtype: torch.dtype,
        device: torch.device,
        patience: int = 0,
    ) -> None:
        """`heads`: h, that each rank ends up with. `arena_of(num_bytes)` -> Arena of `peers`."""
        assert layers >= LEAST_LAYERS and peers.size > 1
        self._peers, self._layers, self._heads, self._dim = peers, layers, heads, dim
        self._limit = self._rows = rows
        self._dtype, self._patience = dtype, patience
        self._epoch = torch.zeros(1, dtype=torch.int32, device=device)
        num, others, column = sets(layers), peers.size - 1, rows * heads
        flags, part = 4 * FLAGS * others, column * dim * dtype.itemsize
        _, out, lse, end = laid_out(flags, num * others * part, num * others * column * 4)
        arena: Arena = arena_of(end)
        self._arena, self._rank = arena, arena.rank
        self._flags = arena.local(0, (others * FLAGS,), torch.int32)
        self._out = arena.local(out, (num, others, column, dim), dtype)
        self._lse = arena.local(lse, (num, others, column), torch.float32)
        self._routes = torch.tensor(
            [
                [
                    self._way(to, out + s * others * part, part, lse + s * others * column * 4)
                    for to in range(peers.size)
                    if to != arena.rank
                ]
                for s in range(num)
            ],
            dtype=torch.int64,
            device=device,
        )

    def _way(self, to: int, out: int, part: int, lse: int) -> list[int]:
        """Row of `kernels.answer`'s routes; `out`, `lse`: where a set begins."""
        index = self._rank - (self._rank > to)  # of this rank among the peers of `to`
        offsets = flags_of(index), out + index * part, lse + index * 4 * self._limit * self._heads
        return [*(self._arena.address(to, offset) for offset in offsets), to * self._heads]

    @property
    def held_bytes(self) -> int:
        """Of the device's memory, for good."""
        return self._arena.num_bytes

    def begin(self, rows: int) -> None:
        """Once per step of `rows` rows, before layer 0, on every rank; inside the graph, if any."""
        assert 0 < rows <= self._limit
        self._rows = rows
        self._epoch.add_(self._layers)

    def exchange(self, part: Partial, *, layer: int) -> Tensor:
        """Partial of B rows and all H heads over this rank's keys -> [B, h, D] over all.

        Once for every layer of a step, in order.
        """
        shape, size = (self._rows, self._heads * self._peers.size, self._dim), self._dtype.itemsize
        assert part.out.shape == shape and part.out.stride(-1) == 1
        # What `Shards` sends: rows of out and lse, for every peer.
        row = self._heads * (self._dim * size + 4)
        with self._peers.exchanging((self._peers.size - 1) * self._rows * row, layer=layer):
            self._answer(part, layer)
            return self._collect(part, layer)

    @property
    def _width(self) -> int:
        """CTAs that send to one peer: arithmetic that all ranks do alike."""
        num_bytes = self._rows * self._heads * self._dim * self._dtype.itemsize
        return max(1, min(SENDERS.value, -(-num_bytes // CTA_BYTES)))

    def _tile(self, num_bytes: int) -> int:
        return max(1, num_bytes // (triton.next_power_of_2(self._dim) * self._dtype.itemsize))

    def _answer(self, part: Partial, layer: int) -> None:
        out, lse = part.out, part.lse
        kernels.answer[(self._width, self._peers.size - 1)](
            out, lse, self._routes[set_of(layer, self._layers)], self._epoch, None, layer,
            self._rows, *out.stride()[:2], *lse.stride(), HEADS=self._heads, DIM=self._dim,
            TILE=self._tile(TILE_BYTES), WIRE=WIRE[self._dtype], STAMPED=False,
        )  # fmt: skip

    def _collect(self, part: Partial, layer: int) -> Tensor:
        mine = slice(self._rank * self._heads, (self._rank + 1) * self._heads)
        out, lse, tile = part.out[:, mine], part.lse[:, mine], self._tile(MERGE_BYTES)
        merged = out.new_empty((self._rows, self._heads, self._dim), dtype=self._dtype)
        came = set_of(layer, self._layers)
        kernels.collect[(-(-self._rows * self._heads // tile),)](
            self._flags, self._out[came], self._lse[came], out, lse, merged, self._epoch, None,
            layer, self._rows, self._width, self._patience, *out.stride()[:2], *lse.stride(),
            COLUMNS=self._peers.size - 1, COLUMN=self._limit * self._heads, HEADS=self._heads,
            DIM=self._dim, TILE=tile, OWN=True, STAMPED=False,
        )  # fmt: skip
        return merged
