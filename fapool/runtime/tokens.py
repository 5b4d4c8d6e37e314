"""Token numbers: prompts, the latest token of every request, and the greedy choice of the next."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fapool.phases import Phase
from fapool.runtime.batch import Batch, indices
from fapool.runtime.exchange.collective import Collective
from fapool.runtime.span import Span
from fapool.workload import Request

EXACT = 1 << 24
"""Whole numbers up to this one are fp32 numbers."""


def prompt(request: Request, *, vocab: int, seed: int) -> Tensor:
    """The prompt of a request, random token numbers [context] on the CPU; equal on every rank."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + request.id)
    return torch.randint(vocab, (request.context,), generator=generator)


class Tokens:
    """What goes into the model next, for all requests of a workload.

    `latest` [one past the highest id + 1]: the last token of each; the one past is nobody's.
    """

    def __init__(
        self, requests: Sequence[Request], *, vocab: int, seed: int, device: torch.device
    ) -> None:
        self._requests = {request.id: request for request in requests}
        self._vocab, self._seed, self._device = vocab, seed, device
        self._prompts: dict[int, Tensor] = {}
        self.latest = torch.zeros(max(self._requests) + 2, dtype=torch.int64, device=device)

    def inputs(self, batch: Batch) -> Tensor:
        """Token numbers [T] of a prefill."""
        return torch.cat([self._prompt(s.request)[s.start : s.end] for s in batch.segments])

    def put(self, requests: Sequence[int], tokens: Tensor) -> None:
        """Set the latest token of each of `requests`; tokens [len(requests)]."""
        (index,) = indices([requests], self._device)
        self.latest.index_copy_(0, index, tokens)
        for request in requests:
            self._prompts.pop(request, None)

    def _prompt(self, request: int) -> Tensor:
        if request not in self._prompts:
            found = prompt(self._requests[request], vocab=self._vocab, seed=self._seed)
            (self._prompts[request],) = indices([found.numpy()], self._device)
        return self._prompts[request]


def greedy(logits: Tensor, vocab: range, peers: Collective, span: Span) -> Tensor:
    """The token of the highest logit [n], of logits [n, len(vocab)] sliced over `peers`."""
    with span(Phase.LOGITS):
        best = logits.max(dim=-1)
        if peers.size == 1:
            return best.indices
        # Chosen by what all ranks have alike, not by `vocab`: they gather one dtype.
        dtype = logits.dtype
        assert dtype == torch.float64 or vocab.stop <= EXACT
        pair = torch.stack([best.values.to(dtype), (best.indices + vocab.start).to(dtype)], dim=-1)
    slices = peers.gather(pair)
    with span(Phase.LOGITS):
        winner = slices[..., 0].argmax(dim=0)
        return slices[winner, torch.arange(len(winner), device=winner.device), 1].long()


def whole(logits: Tensor, vocab: int, peers: Collective) -> Tensor:
    """Logits [n, vocab] from slices that differ in width by one at most."""
    if peers.size == 1:
        return logits
    widest = -(-vocab // peers.size)
    padded = torch.nn.functional.pad(logits, (0, widest - logits.shape[1]))
    widths = [vocab * (i + 1) // peers.size - vocab * i // peers.size for i in range(peers.size)]
    slices = peers.gather(padded.contiguous())
    return torch.cat([part[:, :n] for part, n in zip(slices, widths, strict=True)], dim=1)
