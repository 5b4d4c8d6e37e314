"""What `sanitize.py` runs of the kernels that have a peer: both ends in one process, on one stream.

shapes:  B rows, H heads, K KV heads, D head dim
"""

from __future__ import annotations

import math
from functools import partial

import torch
from sanitized import HALF, LIMIT, Case, draw, moved, partials, same, wide, worst
from torch import Tensor

from fapool.instrument.recorder import no_span
from fapool.runtime.attention.base import Unmerged
from fapool.runtime.exchange.layout import base_places, pool_places
from fapool.runtime.exchange.link import route
from fapool.runtime.exchange.link_spans import LinkSpans
from fapool.runtime.exchange.reduction import KINDS
from fapool.runtime.exchange.symmetric import SymmetricBaseLink, SymmetricPoolLink
from fapool.runtime.kernels.reduction import small_sum
from fapool.runtime.partial import Partial, merge
from fapool.spec import FAPool, Model, RunSpec, Workload

POLLS = 1 << 20  # then a kernel that waits traps


class Beside:
    """Memory of ranks that are all in this process: what a link asks of an `Arena`."""

    def __init__(self, memory: list[Tensor], rank: int) -> None:
        self._memory, self._rank = memory, rank
        self.num_bytes = memory[rank].nbytes

    def address(self, rank: int, offset: int = 0) -> int:
        """See `Arena.address`."""
        return self._memory[rank].data_ptr() + offset

    def local(self, offset: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """See `Arena.local`."""
        size = torch.Size(shape).numel() * dtype.itemsize
        return self._memory[self._rank][offset : offset + size].view(dtype).view(shape)


def links(heads: int, kv_heads: int, dim: int, device: torch.device) -> dict:
    """A step of both ends of a link, one after the other on one stream: no kernel has to wait."""
    rows, layers = 5, 2
    model = Model(
        layers=layers, hidden=32, heads=heads, kv_heads=kv_heads, head_dim=dim, ffn=48, vocab=50,
        dtype="bfloat16",
    )  # fmt: skip
    work = Workload(batch=1, context=8, output=2)
    spec = RunSpec(model=model, plan=FAPool(base=1, pool=1), workload=work)
    at = [route(spec, rank) for rank in range(2)]
    sizes = base_places(at[0], rows, HALF, 1)[-1], pool_places(at[1], rows, HALF)[-1]
    memory = [torch.zeros(size, dtype=torch.uint8, device=device) for size in sizes]
    ends = [
        kind(
            at[rank], Beside(memory, rank), rows, HALF, patience=POLLS,
            spans=LinkSpans(no_span, at[rank], ":link", HALF.itemsize),
        )
        for rank, kind in enumerate((SymmetricBaseLink, SymmetricPoolLink))
    ]  # fmt: skip
    for end in ends:
        end.begin(rows)
        end.stamps = torch.zeros(layers, 2, 3, dtype=torch.int64, device=device)
    return worst([x for layer in range(layers) for x in exchanged(*ends, layer, device)], 1e-2)


def exchanged(
    base: SymmetricBaseLink, pool: SymmetricPoolLink, layer: int, device: torch.device
) -> list[tuple[Tensor, Tensor]]:
    """Ask, queries with new keys for the pages, answer, collect: found and expected."""
    rows, heads, kv_heads, dim = 5, base._at.base_heads, base._at.group_kv_heads, base._at.head_dim
    q, k, v = draw(rows, heads, dim), draw(rows, kv_heads, dim), draw(rows, kv_heads, dim)
    answer, own = partials(2, rows, heads, dim)
    pages, slots = torch.zeros(2, 2, 16, kv_heads, dim, dtype=HALF), torch.tensor([31, -1, 0, 7, 9])
    there = pages.to(device)
    base.ask(layer, *(x.to(device) for x in (q, k, v)))
    got = pool.queries(layer, (*there, slots.int().to(device)))
    found = [*(x.clone() for x in got), there]
    if layer and pool.takes_items:
        pool.answer_items(layer, items_of(answer, device))
    else:
        pool.answer(layer, moved(answer, device))
    found.append(base.collect(layer, moved(own, device) if layer else None))
    for cache, x in zip(pages, (k, v), strict=True):
        cache.view(-1, kv_heads, dim)[slots[slots >= 0]] = x[slots >= 0]
    merged = merge([wide(answer), wide(own)] if layer else [wide(answer)]).out
    return list(zip(found, (q, k, v, pages, merged), strict=True))


def items_of(part: Partial, device: torch.device) -> Unmerged:
    """Two items of every row that merge to a partial."""
    rows, pairs = len(part.out), 2
    out = wide(part).out.float().repeat_interleave(pairs, dim=0)
    lse = (part.lse - math.log(pairs)).repeat_interleave(pairs, dim=0)
    first = torch.arange(0, pairs * rows + 1, pairs, dtype=torch.int32)
    return Unmerged(*(x.to(device) for x in (out, lse, first)))


def sums(dtype: torch.dtype, device: torch.device) -> dict:
    """Rank 0 of 2, whose peer's words are there already: the first sum, whose number is 1."""
    block, words = 512, 700
    capacity, per_word = 2 * block, 4 // dtype.itemsize
    mine, theirs = draw(2, words * per_word, dtype=dtype)
    boxes = torch.zeros(2, 2, 2, capacity, dtype=torch.int64)  # rank, parity, sender, place
    boxes[0, 1, 1, :words] = (1 << 32) | (theirs.view(torch.int32).long() & 0xFFFFFFFF)
    there, x = boxes.to(device), mine.to(device).view(torch.int32)
    places = torch.tensor([there[0].data_ptr(), there[1].data_ptr()]).to(device)
    counts, out = torch.zeros(2, dtype=torch.int32, device=device), torch.empty_like(x)
    small_sum[(2,)](
        x, out, places, counts, words, POLLS,
        RANK=0, RANKS=2, CAPACITY=capacity, dtype=KINDS[dtype], BLOCK=block,
    )  # fmt: skip
    boxes[1, 1, 0, :words] = (1 << 32) | (mine.view(torch.int32).long() & 0xFFFFFFFF)
    expected = mine.double() + theirs.double()
    counted = counts, torch.ones(2)
    return worst([(out.view(dtype), expected), same(there[1], boxes[1]), counted], LIMIT[dtype])


CASES: dict[str, Case] = {
    "link": partial(links, 4, 2, 24),
    "link, items merged as they are sent": partial(links, 4, 2, 32),
    "small sum": partial(sums, HALF),
    "small sum, fp32": partial(sums, torch.float32),
}
