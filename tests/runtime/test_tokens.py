"""The choice of tokens over slices of the vocabulary against the choice over all of it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fapool.instrument.recorder import no_span
from fapool.runtime.batch import Batch
from fapool.runtime.tokens import Tokens, greedy, prompt, whole
from fapool.schedule import Segment
from fapool.topology import share
from fapool.workload import Request

CPU = torch.device("cpu")


class Slices:
    """The group of ranks that hold one slice of the vocabulary each, seen from one of them."""

    def __init__(self, of_all: list[torch.Tensor]) -> None:
        self._of_all, self.size = of_all, len(of_all)

    def gather(self, own: torch.Tensor) -> torch.Tensor:
        shapes = {tuple(part.shape) for part in self._of_all}
        assert shapes == {tuple(own.shape)}, "ranks gather equal shapes only"
        return torch.stack(self._of_all)


def on_every_rank(act, logits: torch.Tensor, parts: int) -> list:
    """What `act(slice, vocab, peers)` gives on each rank; run twice, to learn what they send."""
    vocab = [share(logits.shape[1], parts, i) for i in range(parts)]
    pieces = [logits[:, own.start : own.stop] for own in vocab]
    sent: list[torch.Tensor] = []

    class Listener:
        size = parts

        def gather(self, own):
            sent.append(own)
            raise StopIteration

    if parts > 1:
        for piece, own in zip(pieces, vocab, strict=True):
            with pytest.raises(StopIteration):
                act(piece, own, Listener())
    peers = Slices(sent) if parts > 1 else Slices([logits])
    return [act(piece, own, peers) for piece, own in zip(pieces, vocab, strict=True)]


def chosen_by_rank(piece, own, peers) -> torch.Tensor:
    return greedy(piece, own, peers, no_span)


sizes = st.tuples(st.integers(1, 5), st.integers(4, 40), st.integers(1, 4), st.integers(0, 2**31))


@given(sizes)
def test_every_rank_chooses_the_token_of_the_highest_logit(size):
    tokens, vocab, parts, seed = size
    draw = torch.Generator().manual_seed(seed)
    logits = torch.randn(tokens, vocab, generator=draw)
    for chosen in on_every_rank(chosen_by_rank, logits, parts):
        assert chosen.tolist() == [
            max(range(vocab), key=row.__getitem__) for row in logits.tolist()
        ]


@given(sizes)
def test_slices_of_logits_join_to_the_whole(size):
    tokens, vocab, parts, seed = size
    logits = torch.randn(tokens, vocab, generator=torch.Generator().manual_seed(seed))
    joined = on_every_rank(lambda piece, own, peers: whole(piece, vocab, peers), logits, parts)
    assert all(torch.equal(found, logits) for found in joined)


def test_large_vocabularies_keep_their_token_numbers_exact_in_the_gathered_pair():
    logits = torch.zeros(1, 200_003)
    logits[0, 199_999] = 1
    assert [chosen.item() for chosen in on_every_rank(chosen_by_rank, logits, 4)] == [199_999] * 4


def test_a_prompt_is_its_requests_alone():
    requests = [Request(id=i, context=50, output=1) for i in range(3)]
    prompts = [prompt(request, vocab=1000, seed=7) for request in requests]
    assert torch.equal(prompts[1], prompt(requests[1], vocab=1000, seed=7))
    assert not torch.equal(prompts[0], prompts[1])
    assert not torch.equal(prompts[0], prompt(requests[0], vocab=1000, seed=8))
    assert all(0 <= token < 1000 for tokens in prompts for token in tokens.tolist())


def test_chunks_of_prompts_and_latest_tokens_go_in_by_request():
    requests = [Request(id=i, context=10 + i, output=9) for i in range(4)]
    tokens = Tokens(requests, vocab=97, seed=3, device=CPU)
    segments = (Segment(1, 4, 7, True), Segment(3, 0, 2, False))
    expected = torch.cat([prompt(requests[1], vocab=97, seed=3)[4:11]])
    found = tokens.inputs(Batch("prefill", segments, CPU))
    assert torch.equal(found[:7], expected)
    assert torch.equal(found[7:], prompt(requests[3], vocab=97, seed=3)[:2])
    tokens.put([3, 0], torch.tensor([33, 30]))
    tokens.put([1], torch.tensor([11]))
    assert tokens.latest[[0, 1, 3]].tolist() == [30, 11, 33]
