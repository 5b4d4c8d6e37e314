"""Grants and returns of a workload, kept alike on base and pool ranks: metadata, no message."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fapool.deals import BASE, Deal
from fapool.forecast import overlap
from fapool.forecast.memory import lease_book
from fapool.leases import Lease, readers
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
        self._lent: dict[tuple[tuple[int, ...], int | None], Deal] = {}  # by columns and reader
        self._readers: dict[int, int] = {}  # request -> who attends for it, where keys are copied
        self._requests = {request.id: request for request in requests}
        self._contexts = {request.id: request.context for request in requests}

    @property
    def leases(self) -> dict[int, Lease]:
        """Request -> lease, of those that are out."""
        return self._book.leases

    def grant(self, step: Step) -> list[Lease]:
        """Grant what the step needs; a lease's `tokens` are the keys to move before it."""
        with self._span(Phase.LEASE):
            granted = [
                self._book.grant(
                    segment.request, tokens=tokens, promised=self.cached(segment.request)
                )
                for segment, tokens in self._book.due(step, self._contexts)
            ]
            if granted:
                self._share_out()
            return granted

    def end(self, step: Step) -> list[Lease]:
        """Take back the leases of the requests that finished with the step."""
        with self._span(Phase.LEASE):
            ended = self._book.give_back(step.finished)
            if ended:
                self._share_out()
            return ended

    def _share_out(self) -> None:
        """Who attends for whom from now on: moved at will, for all of a lease have the keys."""
        if self._spec.plan.kv == "shared":
            tokens = {request: self.cached(request) for request in self.leases}
            self._readers = readers(self.leases.values(), tokens)

    def deal(self, request: int) -> Deal:
        """How the blocks of a request are dealt now."""
        lease = self._book.leases.get(request)
        if lease is None:
            return self._home
        key = lease.columns, self._readers.get(request)
        if key not in self._lent:
            self._lent[key] = replace(lent_deal(self._spec, lease.columns), reader=key[1])
        return self._lent[key]

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
        self._book, self._readers = lease_book(self._spec), {}

    def cached(self, request: int) -> int:
        """Tokens whose keys a request has at its end."""
        return self._requests[request].cached
