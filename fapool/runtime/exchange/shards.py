"""Partials among ranks that share the keys of the same heads: every rank ends up with some heads,
attended over the keys of all.

    shapes:  T query tokens, S ranks that share the keys, H heads of them all, D head dim

One message to each rank and one from each, flat, in the model's dtype; message i holds the heads
that the i-th rank stands for:

    [out  T x H/S x D][lse  T x H/S, fp32 seen as dtype]
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fapool.phases import Phase
from fapool.runtime.exchange.collective import Collective
from fapool.runtime.partial import Partial, lse_dtype, merge
from fapool.runtime.span import Span

try:
    import triton

    from fapool.runtime.exchange import shards_kernel
except ImportError:
    triton = None


class Shards:
    """The exchange on one rank; where there is one alone, partials stay where they are."""

    def __init__(self, peers: Collective, span: Span) -> None:
        self._peers, self._span = peers, span

    def begin(self, rows: int) -> None:
        """Once per decode step of `rows` rows, before layer 0; messages need not be told."""

    def exchange(self, part: Partial, *, layer: int) -> Tensor:
        """Partial of T tokens and all H heads over this rank's keys -> [T, H/S, D] over all."""
        if self._peers.size == 1:
            return part.out
        messages = self._packed(part, layer)
        arrived = self._peers.all_to_all(messages, layer=layer)
        return self._merged(arrived, part, None, layer)

    def post(self, part: Partial, *, layer: int) -> Callable[[Partial], Tensor]:
        """`exchange` under way beside what is computed next.

        What it returns ends it: takes one more partial of this rank's H/S heads, gives [T, H/S, D].
        """
        if self._peers.size == 1:
            return lambda own: self._join(part, own, layer)
        ticket = self._peers.post_all_to_all(self._packed(part, layer), layer=layer)
        return lambda own: self._merged(ticket.wait(), part, own, layer)

    def _join(self, part: Partial, own: Partial, layer: int) -> Tensor:
        with self._span(Phase.MERGE, layer=layer):
            return merge([part, own]).out

    def _packed(self, part: Partial, layer: int) -> Tensor:
        with self._span(Phase.PACK, layer=layer):
            return pack(part, self._peers.size)

    def _merged(self, messages: Tensor, like: Partial, own: Partial | None, layer: int) -> Tensor:
        tokens, heads, dim = like.out.shape
        with self._span(Phase.MERGE, layer=layer):
            return merge_messages(messages, (tokens, heads // self._peers.size, dim), own)


def seen(messages: Tensor, shape: tuple[int, int, int]) -> Partial:
    """Messages [S, n] of partials of `shape` [T, H/S, D] as views: out [S, *shape], lse."""
    tokens, heads, dim = shape
    body = tokens * heads * dim
    lse = messages[:, body:].view(lse_dtype(messages.dtype))
    return Partial(messages[:, :body].unflatten(1, shape), lse.unflatten(1, (tokens, heads)))


def pack(part: Partial, ranks: int) -> Tensor:
    """Partial [T, H, D] -> a message [n] for each of `ranks` ranks."""
    tokens, heads, dim = part.out.shape
    assert heads % ranks == 0
    shape, dtype = (tokens, heads // ranks, dim), part.out.dtype
    size = tokens * shape[1] * (dim + lse_dtype(dtype).itemsize // dtype.itemsize)
    messages = part.out.new_empty(ranks, size)
    to = seen(messages, shape)
    if not _fused(messages):
        to.out.copy_(part.out.unflatten(1, (ranks, -1)).movedim(1, 0))
        to.lse.copy_(part.lse.unflatten(1, (ranks, -1)).movedim(1, 0))
        return messages
    assert part.out.stride(2) == 1
    shards_kernel.pack_rows[(tokens, heads)](
        part.out, part.lse, to.out, to.lse,
        *part.out.stride()[:2], *part.lse.stride(), to.out.stride(0), to.lse.stride(0),
        H=shape[1], D=dim, WIDTH=triton.next_power_of_2(dim), num_warps=1,
    )  # fmt: skip
    return messages


def merge_messages(
    messages: Tensor, shape: tuple[int, int, int], own: Partial | None = None
) -> Tensor:
    """Messages [S, n] of partials of `shape`, and `own`, merged: `shape`."""
    came, (tokens, heads, dim) = seen(messages, shape), shape
    if not _fused(messages):
        parts = [Partial(*pair) for pair in zip(came.out, came.lse, strict=True)]
        return merge(parts + ([] if own is None else [own])).out
    merged, ranks, part = messages.new_empty(shape), len(messages), own or came
    assert part.out.stride(-1) == 1
    shards_kernel.merge_rows[(tokens, heads)](
        came.out, came.lse, part.out, part.lse, merged,
        came.out.stride(0), came.lse.stride(0), *part.out.stride()[-3:-1], *part.lse.stride()[-2:],
        S=ranks, H=heads, D=dim, OWN=own is not None,
        MESSAGES=triton.next_power_of_2(ranks), WIDTH=triton.next_power_of_2(dim), num_warps=1,
    )  # fmt: skip
    return merged


def _fused(messages: Tensor) -> bool:
    return triton is not None and messages.is_cuda and messages.dtype != torch.float64
