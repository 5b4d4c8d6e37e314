"""What a plan does on one rank, step by step; the same methods in every plan, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from fapool.leases import Lease
from fapool.phases import Phase
from fapool.runtime.exchange.collective import Collective
from fapool.runtime.kvcache import KVCache
from fapool.runtime.model import Decoder
from fapool.runtime.seat import Seat
from fapool.runtime.tokens import greedy, whole
from fapool.schedule import Step


class Plan(Protocol):
    """One rank's part in one workload."""

    cache: KVCache  # the keys and values that lie on this rank
    leased: int  # requests that this rank serves (pool) or has lent out (base)

    def run(self, step: Step) -> list[tuple[list[int], Tensor]]:
        """Do a step. Returns (requests, tokens) pairs chosen here: on the last stage, else none."""

    def end(self, step: Step) -> None:
        """Let go of the requests that finished with the step."""

    def settle(self) -> None:
        """Wait until no message of this rank is under way."""

    @property
    def leases(self) -> Mapping[int, Lease]:
        """Request -> lease, of those that are out, on whatever ranks."""


class Ending:
    """The last stage's end: hidden states to tokens, with the logits kept where they are wanted."""

    def __init__(self, seat: Seat, decoder: Decoder, *, keep_logits: bool) -> None:
        self._decoder, self._seat, self._keep = decoder, seat, keep_logits
        self.logits: dict[int, list[Tensor]] = {}  # request -> [vocab] each, whole, if kept

    def choose(self, x: Tensor, rows: Tensor, requests: list[int]) -> Tensor:
        """Hidden states [T, E], of which `rows` [n] emit -> tokens [n]."""
        place, peers = self._seat.place, self._seat.peers
        with self._seat.span(Phase.LOGITS):
            logits = self._decoder.logits(x[rows], place.vocab)
        if self._keep:
            self._remember(logits, requests, peers)
        return greedy(logits, place.vocab, peers, self._seat.span)

    def _remember(self, logits: Tensor, requests: list[int], peers: Collective) -> None:
        for request, row in zip(
            requests, whole(logits, self._seat.spec.model.vocab, peers), strict=True
        ):
            self.logits.setdefault(request, []).append(row)
