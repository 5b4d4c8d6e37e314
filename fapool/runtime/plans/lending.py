"""Grants and returns of a workload, kept alike on base and pool ranks: metadata, no message."""

from __future__ import annotations

from collections.abc import Sequence

from fapool.forecast.memory import lease_book
from fapool.leases import Lease
from fapool.phases import Phase
from fapool.runtime.span import Span
from fapool.schedule import Step
from fapool.spec import RunSpec
from fapool.workload import Request


class Lending:
    """The lease book of a workload, moved on step by step."""

    def __init__(self, spec: RunSpec, requests: Sequence[Request], span: Span) -> None:
        self._book, self._span = lease_book(spec), span
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

    def cached(self, request: int) -> int:
        """Tokens whose keys a request has at its end."""
        return self._requests[request].cached
