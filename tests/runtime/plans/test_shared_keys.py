"""`kv="shared"`: every rank of a lease has all of a request's keys, and queries are shared out.

What is generated equals one device's; what each rank holds and attends is what the option says.
"""

import pytest

from fapool.forecast.memory import footprint
from fapool.phases import Owner, Phase
from fapool.spec import FAPool
from fapool.workload import Request
from tests.runtime.plans.test_prefill import LONG
from tests.runtime.test_equality import (
    GQA,
    MHA,
    MIXED,
    MQA,
    THRESHOLD,
    check_equal,
    fapool,
    make_model,
    make_spec,
)

pytestmark = [pytest.mark.ranks, pytest.mark.untimed]


def shared(base: int, pool: int, **changes) -> FAPool:
    return fapool(base, pool, kv="shared", **changes)


POOLS = [(1, 3, MHA), (1, 2, MQA), (1, 1, GQA), (2, 2, MHA), (2, 2, MQA), (2, 1, GQA)]


@pytest.mark.parametrize(("base", "pool", "kv_heads"), POOLS)
def test_pools_that_share_all_keys_equal_one_device(crew, base, pool, kv_heads):
    check_equal(crew, make_spec(shared(base, pool), model=make_model(kv_heads)))


@pytest.mark.parametrize("overlap", ["always", "never"])
def test_halves_and_pieces_whose_queries_are_shared_out_equal_one_device(crew, overlap):
    spec = make_spec(shared(1, 3, overlap=overlap), model=make_model(GQA), batch=6)
    check_equal(crew, spec, LONG)


@pytest.mark.parametrize(("pool", "lease_ranks"), [(3, 1), (3, 2)])
def test_narrow_leases_that_share_all_keys_equal_one_device(crew, pool, lease_ranks):
    plan = shared(1, pool, lease_ranks=lease_ranks)
    check_equal(crew, make_spec(plan, batch=4), (*MIXED, *LONG))


def test_a_column_that_attends_for_another_s_sake_learns_of_a_lease_that_is_not_its_own(crew):
    """Of columns 0 and 1 the first attends for request 0, until request 1, longer, gets 0 and 2."""
    spec = make_spec(shared(1, 3, lease_ranks=2), batch=2)
    played = check_equal(crew, spec, ((20, 10), (11, 20)))
    assert played[0]["leased_at"] == {0: 0, 1: THRESHOLD}
    both = [p["steps"]["kv_tokens"][-12] > 0 for p in played[1:]]
    assert both == [True, True, True]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_shared_keys_of_other_dtypes_stay_within_their_tolerance(crew, dtype):
    check_equal(crew, make_spec(shared(1, 3), model=make_model(GQA, dtype=dtype)))


def test_every_rank_of_a_lease_holds_all_keys_and_one_attends_a_request_alone(crew):
    """From the middle of decoding on: a prompt in chunks of 8, then token by token."""
    spec = make_spec(shared(1, 3), batch=1)
    base, *pool = check_equal(crew, spec, ((9, 24),))
    moved = len(pool) * THRESHOLD * spec.model.kv_bytes_per_token
    forecast = footprint(spec, [Request(id=0, context=9, output=24)])[0][Owner.BUFFERS]
    assert moved == base["peak_buffers"] <= forecast
    assert base["leased_at"] == {0: THRESHOLD}
    lengths = [8, 9, *range(10, 33)]
    held = [n if n > THRESHOLD else 0 for n in lengths]
    assert list(base["steps"]["kv_tokens"]) == [n - h for n, h in zip(lengths, held, strict=True)]
    for came in pool:
        assert list(came["steps"]["kv_tokens"]) == held


def test_rows_of_equal_requests_are_spread_evenly_over_the_columns(crew):
    """Seven of them, all decoded together over three columns: each prefills and holds alike."""
    played = check_equal(crew, make_spec(shared(1, 3), batch=7), ((16, 4),) * 7)
    for came in played[1:]:
        assert came["kv_bytes"] == played[1]["kv_bytes"]
        assert list(came["steps"]["kv_tokens"])[-1] == 7 * 19


def test_a_prefill_asks_each_rank_for_its_run_of_the_rows_alone(crew):
    """41 tokens in chunks of 8 over two columns: 33 have something before their chunk."""
    _, *pool = check_equal(crew, make_spec(shared(1, 2, overlap="never"), batch=1), ((41, 1),))
    model = make_model()
    row = model.heads * (model.head_dim + 1) * 8 * model.layers
    sent = [answered(came) / row for came in pool]
    assert sum(sent) == 41 - 8
    assert max(sent) - min(sent) <= 5  # one a chunk


def answered(came: dict) -> int:
    phases, sizes = came["events"]["phase"], came["events"]["bytes"]
    pairs = zip(phases, sizes, strict=True)
    return sum(size for phase, size in pairs if phase == Phase.SEND_PARTIALS)
