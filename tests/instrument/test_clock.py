"""Offsets between clocks: exact on one host, bounded by the round trip between hosts."""

import time

import pytest
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st

from fapool.instrument import clock
from fapool.instrument.clock import ROUNDS, estimate_offset, offset_to_rank0

delays = st.tuples(st.integers(1, 10_000), st.integers(1, 10_000))


@given(
    st.integers(-(10**15), 10**15),
    st.lists(delays, min_size=ROUNDS + 1, max_size=ROUNDS + 1),
)
def test_the_error_is_within_the_uncertainty(true_offset, trips):
    now = 0
    ways = iter(trips)

    def exchange() -> int:
        nonlocal now
        there, back = next(ways)
        now += there
        far = now + true_offset
        now += back
        return far

    offset, uncertainty = estimate_offset(exchange, clock=lambda: now)
    assert abs(offset - true_offset) <= uncertainty
    assert uncertainty <= min(sum(trip) for trip in trips) // 2 + 1


def test_unix_time_is_this_hosts():
    mine = time.perf_counter_ns() + clock.unix_offset_ns()
    assert abs(time.time_ns() - mine) < 50_000_000


@pytest.fixture
def one_rank():
    store = dist.HashStore()
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_rank_0_is_its_own_clock(one_rank):
    found = offset_to_rank0()
    assert found.same_host
    assert found.uncertainty_ns == 0
    assert abs(found.unix_offset_ns - clock.unix_offset_ns()) < 50_000_000
