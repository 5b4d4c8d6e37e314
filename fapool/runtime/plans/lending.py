"""Grants and returns of a workload, kept alike on base and pool ranks: metadata, no message."""

from __future__ import annotations

from collections.abc import Sequence

from fapool.deals import BASE, Deal
from fapool.forecast import overlap
from fapool.forecast.memory import lease_book
from fapool.leases import Lease
from fapool.phases import Phase
from fapool.pieces import piece_rows
from fapool.runtime.batch import pieces
from fapool.runtime.span import Span
from fapool.schedule import Segment, Step
from fapool.spec import RunSpec
from fapool.topology import home_deal, lent_deal
from fapool.workload import Request


class Lending:
    """The lease book of a workload, moved on step by step."""

    def __init__(self, spec: RunSpec, requests: Sequence[Request], span: Span) -> None:
        self._book, self._span, self._spec = lease_book(spec), span, spec
        self._home, self._halving = home_deal(spec), overlap.Halving(spec)
        self._lent: dict[tuple[int, ...], Deal] = {}  # by columns
        self._requests = {request.id: request for request in requests}
        self._contexts = {request.id: request.context for request in requests}

    @property
    def leases(self) -> dict[int, Lease]:
        """Request -> lease, of those that are out."""
        return self._book.leases

    def grant(self, step: Step) -> list[Lease]:
        """Grant what the step needs; a lease's `tokens` are the keys to move before it."""
        with self._span(Phase.LEASE):
            return [
                self._book.grant(
                    segment.request,
                    tokens=tokens,
                    promised=self._requests[segment.request].cached,
                )
                for segment, tokens in self._book.due(step, self._contexts)
            ]

    def end(self, step: Step) -> list[Lease]:
        """Take back the leases of the requests that finished with the step."""
        with self._span(Phase.LEASE):
            return self._book.give_back(step.finished)

    def deal(self, request: int) -> Deal:
        """How the blocks of a request are dealt now."""
        lease = self._book.leases.get(request)
        if lease is None:
            return self._home
        if lease.columns not in self._lent:
            self._lent[lease.columns] = lent_deal(self._spec, lease.columns)
        return self._lent[lease.columns]

    def shape(self, step: Step) -> tuple[bool, bool]:
        """Whether the pool has keys of some request of a decode step, and whether the base has."""
        lent = self._lent_of(step)
        here = len(lent) < len(step.segments) or BASE in self.deal(lent[0].request).keepers
        return bool(lent), here

    def parts(self, step: Step) -> int:
        """Half-batches that a decode step is done in."""
        tokens = sum(segment.end for segment in self._lent_of(step))
        return self._halving.parts(len(step.segments), tokens)

    def pieces(self, step: Step) -> list[tuple[Segment, ...]]:
        """The pieces that a prefill step is done in."""
        if not self._lent_of(step):
            return [step.segments]
        return pieces(step.segments, piece_rows(self._spec))

    def _lent_of(self, step: Step) -> list[Segment]:
        return [segment for segment in step.segments if segment.request in self._book.leases]

    def reset(self) -> None:
        """Forget every lease."""
        self._book = lease_book(self._spec)

    def cached(self, request: int) -> int:
        """Tokens whose keys a request has at its end."""
        return self._requests[request].cached
