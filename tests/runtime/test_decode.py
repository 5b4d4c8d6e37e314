"""Decode steps in a fixed shape: which frames a body gets, and that a graph changes nothing."""

from types import SimpleNamespace

import pytest
import torch

from fapool.deals import BASE, HOME
from fapool.instrument.recorder import Recorder, no_span
from fapool.phases import Role
from fapool.runtime.decode import Decode
from fapool.runtime.kvcache import KVCache
from fapool.runtime.span import NumberedSpan
from fapool.schedule import Segment
from fapool.spec import Static, Workload
from fapool.workload import Request
from tests.synthetic import small_spec

BLOCK, BATCH = 4, 6
REQUESTS = [Request(id=number, context=5 + 3 * number, output=4) for number in range(8)]


class Bench:
    """A decode of one rank over a small cache."""

    def __init__(self, device: torch.device, *, graphs: bool = False, kept=()) -> None:
        self.recorder = Recorder(rank=0, role=Role.BASE, device=device, sample_every=2)
        self.recorder.begin(0)
        self.span = NumberedSpan(no_span)
        work = Workload(batch=BATCH, context=26, output=4)
        spec = small_spec(plan=Static(), workload=work, block=BLOCK)
        shape = {"layers": range(1), "blocks": 80, "block_tokens": BLOCK, "kv_heads": 1}
        self.cache = KVCache(**shape, head_dim=8, dtype=torch.float32, device=device)
        for request in REQUESTS:
            self.cache.reserve(request.id, -(-request.cached // BLOCK))
        seat = SimpleNamespace(
            place=SimpleNamespace(keeper=BASE),
            device=device,
            recorder=self.recorder,
            capturable=graphs,
            splitter=lambda rows: None,
            span=self.span,
        )
        self.decode = Decode(seat, spec, REQUESTS, self.cache, lambda request: HOME, kept)


def segments(*requests: int, at: int = 0) -> list[Segment]:
    return [Segment(number, REQUESTS[number].context + at, 1, True) for number in requests]


def ids(frames) -> list[list[int]]:
    return [frame.ids.tolist() for frame in frames]


@pytest.fixture
def bench() -> Bench:
    return Bench(torch.device("cpu"))


def test_a_body_gets_frames_of_the_next_bucket_and_what_it_returns_comes_back(bench):
    nobody = len(REQUESTS)
    for requests in ((3,), (0, 1, 2), (7, 2, 5, 4, 0, 1)):
        found, shape = bench.decode.run(
            segments(*requests), lambda frames, *shape: (ids(frames), shape), ("a", 1)
        )
        tail = bench.decode.size(len(requests)) - len(requests)
        assert found == [[*requests, *[nobody] * tail]]
        assert shape == ("a", 1)


def test_half_batches_have_frames_of_their_own(bench):
    nobody = len(REQUESTS)
    found = bench.decode.run(segments(0, 1, 2, 3, 4), lambda frames: ids(frames), parts=2)
    assert found == [[0, 1], [2, 3, 4, nobody]]
    same = bench.decode.run(segments(0, 1, 2, 3), lambda frames: ids(frames), parts=2)
    assert same == [[0, 1], [2, 3]]
    assert bench.decode.run(segments(5), lambda frames: ids(frames), parts=2) == [[5]]


def test_the_same_frames_serve_every_step_of_their_size(bench):
    steps = [
        bench.decode.run(segments(*requests), lambda frames: frames)
        for requests in ((0, 1), (2, 3), (4, 5, 6))
    ]
    assert steps[0][0] is steps[1][0]
    assert steps[0][0] is not steps[2][0]


def test_a_table_holds_all_blocks_of_the_longest_request(bench):
    last = REQUESTS[-1]
    (frame,) = bench.decode.run(segments(last.id, at=last.output - 2), lambda frames: frames)
    blocks = bench.cache.tables[last.id].tolist()
    assert frame.rows.table[0].tolist() == blocks
    assert frame.rows.seqlens.tolist() == [last.cached]


def test_a_batch_finds_the_least_bucket_that_holds_it(bench):
    assert [bench.decode.size(rows) for rows in range(1, BATCH + 1)] == [1, 2, 4, 4, 6, 6]


@pytest.mark.gpu(1)
def test_steps_from_graphs_give_what_plain_ones_give():
    device = torch.device("cuda", torch.cuda.current_device())
    total = torch.zeros(1, dtype=torch.int64, device=device)
    batches = [(0, 1), (2, 3), (0, 1), (4,), (5, 6, 7), (1, 2), (3,)]

    def body(frames, factor: int) -> torch.Tensor:
        total.add_(sum(frame.positions.sum() for frame in frames))
        return torch.cat([frame.ids * factor + frame.rows.seqlens for frame in frames])

    found = {}
    for graphs in (False, True):
        total.zero_()
        bench = Bench(device, graphs=graphs, kept=[total])
        found[graphs] = []
        for number, requests in enumerate(batches):
            for parts, factor in ((1, 10), (2, 100)):
                work = segments(*requests, at=number % 3)
                out = bench.decode.run(work, body, (factor,), parts)
                found[graphs].append((out.tolist(), total.item()))
        bench.decode.close()
    assert found[False] == found[True]


@pytest.mark.gpu(1)
def test_the_result_of_a_micro_batch_outlives_the_next_one():
    device = torch.device("cuda", torch.cuda.current_device())
    bench = Bench(device, graphs=True)
    for _ in range(3):
        kept = []
        for number, requests in enumerate(((0, 1), (2, 3))):
            bench.span.micro_batch = number
            kept.append(bench.decode.run(segments(*requests), lambda frames: frames[0].ids + 0))
        bench.span.micro_batch = -1
        assert [ids.tolist() for ids in kept] == [[0, 1], [2, 3]]
    bench.decode.close()
