"""Offsets between clocks: exact on one host, bounded by the round trip between hosts."""

import subprocess
import sys
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


@pytest.mark.ranks
def test_ranks_of_two_hosts_agree_within_their_uncertainty(tmp_path):
    program = (
        "import sys, torch.distributed as dist; from fapool.instrument import clock; "
        "rank, store = int(sys.argv[1]), dist.FileStore(sys.argv[2], 2); "
        "dist.init_process_group('gloo', store=store, rank=rank, world_size=2); "
        "clock.clock_name = lambda: rank; "  # as on two hosts; in truth they share a clock
        "found = clock.offset_to_rank0(); dist.destroy_process_group(); "
        "print(found.unix_offset_ns, found.uncertainty_ns, found.same_host)"
    )
    command = [sys.executable, "-c", program]
    ranks = [
        subprocess.Popen([*command, str(rank), str(tmp_path / "store")], stdout=subprocess.PIPE)
        for rank in range(2)
    ]
    try:
        said = [rank.communicate(timeout=90)[0].split() for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    (offset, uncertainty, same_host), (other, other_uncertainty, other_same_host) = said
    assert (uncertainty, same_host, other_same_host) == (b"0", b"True", b"False")
    assert abs(int(other) - int(offset)) <= int(other_uncertainty) < 10_000_000
