"""What a plan does on one rank, step by step; the same methods in every plan, side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from fapool.leases import Lease
from fapool.phases import Phase
from fapool.runtime.attention.base import over
from fapool.runtime.frames import Frame
from fapool.runtime.kvcache import KVCache
from fapool.runtime.model import Decoder, Walk
from fapool.runtime.partial import Partial
from fapool.runtime.seat import Seat
from fapool.runtime.span import NumberedSpan
from fapool.runtime.tokens import Tokens, greedy, whole
from fapool.schedule import Step


class Plan(Protocol):
    """One rank's part in one workload; it can be played again from the start."""

    cache: KVCache  # the keys and values that lie on this rank
    leased: int  # requests that this rank serves (pool) or has lent out (base)
    held_bytes: int  # kept between steps beside the cache

    def run(self, step: Step) -> list[tuple[list[int], Tensor]]:
        """Do a step. Returns (requests, tokens) pairs chosen here: on the last stage, else none."""

    def end(self, step: Step) -> None:
        """Let go of the requests that finished with the step."""

    def settle(self) -> None:
        """Wait until no message of this rank is under way."""

    def reset(self) -> None:
        """Forget every request, wherever the workload was left."""

    def close(self) -> None:
        """Let go of what must not outlive the process groups."""

    @property
    def leases(self) -> Mapping[int, Lease]:
        """Request -> lease, of those that are out, on whatever ranks."""

    @property
    def bound(self) -> bool:
        """Whether every rank waits for others in the next decode step; the same on all."""


class Ending:
    """The last stage's end: hidden states to tokens, with the logits kept where they are wanted."""

    def __init__(self, seat: Seat, decoder: Decoder, tokens: Tokens, *, keep_logits: bool) -> None:
        self._decoder, self._seat, self._keep = decoder, seat, keep_logits
        self._tokens = tokens
        self.logits: dict[int, list[Tensor]] = {}  # request -> [vocab] each, whole, if kept

    def choose(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states [T, E] -> tokens [T], and this rank's slice of the logits."""
        place, peers = self._seat.place, self._seat.peers
        with self._seat.span(Phase.LOGITS):
            logits = self._decoder.logits(x, place.vocab)
        return greedy(logits, place.vocab, peers, self._seat.span), logits

    def keep(self, requests: list[int], logits: Tensor) -> None:
        """Remember the logits of `requests`, in the rows' order, if they are wanted."""
        if self._keep:
            slices = logits[: len(requests)]
            rows = whole(slices, self._seat.spec.model.vocab, self._seat.peers)
            for request, row in zip(requests, rows.clone(), strict=True):
                self.logits.setdefault(request, []).append(row)

    def decode(self, x: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        """A decode step's end: `choose`, and the tokens are the latest of `ids` [T]."""
        tokens, logits = self.choose(x)
        with self._seat.span(Phase.LOGITS):
            self._tokens.latest.index_copy_(0, ids.long(), tokens)
        return tokens, logits


def take_turns(
    walks: Sequence[Walk],
    post: Callable[..., Any],
    wait: Callable[[int, Any], Tensor],
    span: NumberedSpan,
) -> list[Tensor]:
    """The ends of several walks; while what one has posted is attended, another goes on.

    `post(number, layer, q, k, v)` asks for attention, `wait(number, what post returned)` has it.
    """
    ends: dict[int, Tensor] = {}
    posted: dict[int, Any] = {}
    for number, walk in enumerate(walks):
        span.micro_batch = number if len(walks) > 1 else -1
        posted[number] = post(number, *next(walk))
    while posted:
        for number in list(posted):
            span.micro_batch = number if len(walks) > 1 else -1
            attended = wait(number, posted.pop(number))
            try:
                posted[number] = post(number, *walks[number].send(attended))
            except StopIteration as end:
                ends[number] = end.value
    span.micro_batch = -1
    return [ends[number] for number in range(len(walks))]


def attend_here(seat: Seat, cache: KVCache, frame: Frame, layer: int, q, k, v) -> Partial:
    """One query a row, q [B, H, D], over what its request has here, the new key included."""
    with seat.span(Phase.APPEND_KV, layer=layer):
        cache.append(layer, frame.slots, k, v)
    with seat.span(Phase.ATTEND, layer=layer):
        return over(seat.backends.decode, q.unsqueeze(1), cache.view(layer, frame.rows))
