"""Every token of every request is scheduled exactly once, in order; waves hold together."""

from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fapool import schedule
from fapool.workload import Request

LENGTHS = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 12)), max_size=12)
BATCH, CHUNK = st.integers(1, 5), st.integers(1, 50)


def make_requests(lengths) -> list[Request]:
    return [Request(id=id, context=c, output=o) for id, (c, o) in enumerate(lengths)]


@given(LENGTHS, BATCH, CHUNK)
def test_every_token_is_scheduled_once_and_in_order(lengths, batch, chunk):
    requests = make_requests(lengths)
    done: defaultdict[int, int] = defaultdict(int)
    emitted: defaultdict[int, int] = defaultdict(int)
    for step in schedule.steps(requests, batch=batch, chunk=chunk):
        for segment in step.segments:
            assert segment.start == done[segment.request] and segment.length >= 1
            done[segment.request] = segment.end
            emitted[segment.request] += segment.emits
    assert done == {request.id: request.cached for request in requests}
    assert emitted == {request.id: request.output for request in requests}


@given(LENGTHS, BATCH, CHUNK)
def test_slots_and_chunks_are_never_overfull(lengths, batch, chunk):
    requests = make_requests(lengths)
    held: set[int] = set()
    steps = list(schedule.steps(requests, batch=batch, chunk=chunk))
    for index, step in enumerate(steps):
        assert step.index == index
        held |= {request.id for request in step.admitted}
        assert len(held) <= batch
        assert {segment.request for segment in step.segments} <= held
        if step.kind == "prefill":
            assert step.tokens <= chunk
        else:
            assert all(segment.length == 1 and segment.emits for segment in step.segments)
        held -= set(step.finished)
    assert not held
    assert schedule.count(requests, batch=batch, chunk=chunk) == len(steps)


@given(LENGTHS, BATCH, CHUNK)
def test_each_request_has_one_first_and_one_last_token(lengths, batch, chunk):
    requests = make_requests(lengths)
    steps = list(schedule.steps(requests, batch=batch, chunk=chunk))
    for tokens in ("first_tokens", "finished"):
        assert sorted(id for step in steps for id in getattr(step, tokens)) == [
            request.id for request in requests
        ]


def test_a_wave_is_packed_into_chunks_and_its_first_tokens_come_out_together():
    requests = make_requests([(5, 2), (3, 1), (4, 3)])
    steps = list(schedule.steps(requests, batch=3, chunk=6))
    seen = [(step.kind, [(s.request, s.start, s.length) for s in step.segments]) for step in steps]
    assert seen == [
        ("prefill", [(0, 0, 5), (1, 0, 1)]),
        ("prefill", [(1, 1, 2), (2, 0, 4)]),
        ("decode", [(0, 5, 1), (2, 4, 1)]),
        ("decode", [(2, 5, 1)]),
    ]
    assert [step.first_tokens for step in steps] == [(), (0, 1, 2), (), ()]
    assert [step.finished for step in steps] == [(), (1,), (0,), (2,)]


def test_a_free_slot_takes_the_next_request_before_anyone_decodes():
    requests = make_requests([(2, 3), (2, 1), (2, 2)])
    kinds = [step.kind for step in schedule.steps(requests, batch=2, chunk=8)]
    assert kinds == ["prefill", "prefill", "decode", "decode"]


def test_no_requests_take_no_steps():
    assert list(schedule.steps([], batch=2, chunk=8)) == []
    assert list(schedule.landmarks([], batch=2, threshold=8)) == []


@given(LENGTHS, BATCH, st.integers(1, 60))
def test_landmarks_keep_the_order_in_which_requests_come_cross_and_go(lengths, batch, threshold):
    requests = make_requests(lengths)

    def story(steps):
        told = []
        over: set[int] = set()
        for step in steps:
            told += [("in", request.id) for request in step.admitted]
            crossed = {s.request for s in step.segments if s.end > threshold} - over
            if step.kind == "decode":
                told += [("over", request) for request in sorted(crossed)]
            over |= crossed
            told += [("out", request) for request in step.finished]
        return told

    every = schedule.steps(requests, batch=batch, chunk=1000)
    few = list(schedule.landmarks(requests, batch=batch, threshold=threshold))
    assert story(few) == story(every)
    assert len(few) <= 3 * len(requests)


@pytest.mark.timeout(10)
def test_landmarks_of_endless_requests_are_few():
    requests = make_requests([(10**7, 10**7)] * 500)
    assert len(list(schedule.landmarks(requests, batch=250, threshold=1))) < 10
