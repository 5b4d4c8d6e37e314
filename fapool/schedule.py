"""The order of work, the same on every rank: which tokens of which requests form each step.

Closed loop: `batch` slots; a free slot takes the next request. Requests admitted together form a
wave: their prompts are prefilled, packed into chunks, and their first tokens come out together at
the wave's end, so that no request waits for another's prefill between its tokens, unless a later
wave is admitted meanwhile. A pure function of the requests: ranks agree without talking.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from fapool.workload import Request


@dataclass(frozen=True, slots=True)
class Segment:
    """Query tokens [start, start + length) of one request; `emits`: its last gives a token."""

    request: int
    start: int
    length: int
    emits: bool

    @property
    def end(self) -> int:
        """Tokens of the request whose keys exist once this segment is done."""
        return self.start + self.length


@dataclass(frozen=True, slots=True)
class Step:
    """One forward pass. Requests in `finished` have their last token when it is done."""

    index: int
    kind: str  # "prefill" or "decode"
    segments: tuple[Segment, ...]
    admitted: tuple[Request, ...] = ()  # before the step
    first_tokens: tuple[int, ...] = ()  # requests whose first token comes out after it
    finished: tuple[int, ...] = ()  # after the step

    @property
    def tokens(self) -> int:
        """Query tokens."""
        return sum(segment.length for segment in self.segments)


Active = dict[int, tuple[Request, int]]  # id -> request, tokens generated so far


def steps(requests: Sequence[Request], *, batch: int, chunk: int) -> Iterator[Step]:
    """Yield every step of the workload in order."""
    return _walk(requests, batch, chunk, lambda active: 0)


def landmarks(requests: Sequence[Request], *, batch: int, threshold: int) -> Iterator[Step]:
    """The same work in few steps: each wave's prefill as one, and of the decode steps those in
    which a request finishes or comes to have more than `threshold` tokens. At most three a
    request, however long they are; indices count these steps.
    """

    def uneventful(active: Active) -> int:
        until = (_until_event(request, done, threshold) for request, done in active.values())
        return min(until)

    chunk = sum(request.context for request in requests) or 1
    return _walk(requests, batch, chunk, uneventful)


def _until_event(request: Request, done: int, threshold: int) -> int:
    crossing = threshold + 1 - (request.context + done)
    finish = request.output - 1 - done
    return min(crossing, finish) if crossing >= 0 else finish


def _walk(
    requests: Sequence[Request], batch: int, chunk: int, skip: Callable[[Active], int]
) -> Iterator[Step]:
    waiting = list(reversed(requests))
    active: Active = {}
    index = 0
    while waiting or active:
        wave = tuple(waiting.pop() for _ in range(min(batch - len(active), len(waiting))))
        for step in _prefill(wave, chunk, index):
            yield step
            index += 1
        active |= {request.id: (request, 1) for request in wave if request.output > 1}
        if active and not (len(active) < batch and waiting):
            skipped = skip(active)
            active = {id: (request, done + skipped) for id, (request, done) in active.items()}
            yield _decode(active, index)
            index += 1
            active = {
                id: (request, done + 1)
                for id, (request, done) in active.items()
                if done + 1 < request.output
            }


def count(requests: Sequence[Request], *, batch: int, chunk: int) -> int:
    """Number of steps."""
    return sum(1 for _ in steps(requests, batch=batch, chunk=chunk))


def _prefill(wave: tuple[Request, ...], chunk: int, index: int) -> Iterator[Step]:
    packs = list(_packs(wave, chunk))
    for number, segments in enumerate(packs):
        last = number == len(packs) - 1
        yield Step(
            index=index + number,
            kind="prefill",
            segments=segments,
            admitted=wave if number == 0 else (),
            first_tokens=tuple(request.id for request in wave) if last else (),
            finished=tuple(r.id for r in wave if r.output == 1) if last else (),
        )


def _packs(wave: tuple[Request, ...], chunk: int) -> Iterator[tuple[Segment, ...]]:
    pack: list[Segment] = []
    room = chunk
    for request in wave:
        start = 0
        while start < request.context:
            length = min(room, request.context - start)
            emits = start + length == request.context
            pack.append(Segment(request.id, start, length, emits))
            start += length
            room -= length
            if room == 0:
                yield tuple(pack)
                pack, room = [], chunk
    if pack:
        yield tuple(pack)


def _decode(active: dict[int, tuple[Request, int]], index: int) -> Step:
    segments = tuple(
        Segment(id, request.context + done - 1, 1, True) for id, (request, done) in active.items()
    )
    finished = tuple(id for id, (request, done) in active.items() if done + 1 == request.output)
    return Step(index=index, kind="decode", segments=segments, finished=finished)
