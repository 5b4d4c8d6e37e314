"""Keys shared by sequence: how they lie, when partials travel, and what the exchange says of it."""

import pytest

from fapool.deals import Deal
from fapool.phases import Phase
from fapool.runtime.check import probe
from fapool.runtime.plans.prefill_helix import _evenly
from fapool.spec import Helix
from fapool.topology import place
from tests.runtime.test_equality import BLOCK, MIXED, check_equal, make_spec

pytestmark = [pytest.mark.ranks, pytest.mark.untimed]


@pytest.fixture(scope="module", params=[(4, 1), (2, 2)], ids=str)
def spec(request):
    kvp, tp = request.param
    return make_spec(Helix(kvp=kvp, tp=tp), batch=4)


@pytest.fixture(scope="module")
def played(crew, spec) -> list[dict]:
    return check_equal(crew, spec)


def spans(came: dict, phase: Phase) -> list[dict]:
    names = ("step", "layer", "channel", "sequence", "bytes", "phase")
    rows = zip(*(came["events"][name] for name in names), strict=True)
    return [dict(zip(names, row, strict=True)) for row in rows if row[-1] == phase]


def test_keys_of_a_request_spread_over_its_shares_within_one_block(crew, spec):
    alone = spec.replace(workload=spec.workload.model_copy(update={"batch": 1}))
    played = check_equal(crew, alone, ((9, 24),))
    steps = list(zip(*(came["steps"]["kv_tokens"] for came in played), strict=True))
    for length, held in zip([8, 9, *range(10, 33)], steps, strict=True):
        of_keeper = {place(spec, rank).keeper: tokens for rank, tokens in enumerate(held)}
        assert sum(of_keeper.values()) == length
        assert max(held) - min(held) <= BLOCK
        assert held == tuple(of_keeper[place(spec, rank).keeper] for rank in range(4))


def test_partials_travel_among_those_who_share_keys_under_numbers_that_match(spec, played):
    for rank, came in enumerate(played):
        peers = place(spec, rank).kv_peers
        found = spans(came, Phase.ALL_TO_ALL)
        assert found
        assert {row["channel"] for row in found} == {"+".join(map(str, peers)) + ":shards"}
        assert [row["sequence"] for row in found] == list(range(len(found)))
        assert found == spans(played[peers[0]], Phase.ALL_TO_ALL)


def test_every_decode_step_exchanges_once_a_layer_what_its_bucket_has(spec, played):
    """Rows of the bucket, which three requests leave unfilled; out and lse, fp64, of the others."""
    at, model, steps = place(spec, 0), spec.model, played[0]["steps"]
    rows = {1: 1, 2: 2, 3: 4, 4: 4}  # of a bucket for so many requests
    others = len(at.heads) - len(at.out_heads)
    by_step = {}
    for row in spans(played[0], Phase.ALL_TO_ALL):
        by_step.setdefault(row["step"], []).append((row["layer"], row["bytes"]))
    decoded = set()
    for step, kind, requests in zip(steps["step"], steps["kind"], steps["requests"], strict=True):
        if kind == "decode":
            decoded.add(requests)
            size = rows[requests] * others * (model.head_dim + 1) * 8
            assert by_step[step] == [(layer, size) for layer in range(model.layers)]
    assert 3 in decoded


def test_a_chunk_with_nothing_before_it_is_attended_without_a_word(crew):
    spec = make_spec(Helix(kvp=4), batch=4)
    played = check_equal(crew, spec, ((2, 1), (5, 1), (1, 1), (8, 1)))
    assert not any(spans(came, Phase.ALL_TO_ALL) for came in played)


def test_shares_without_a_single_block_still_take_part(crew):
    played = check_equal(crew, make_spec(Helix(kvp=4), batch=2), ((1, 3), (2, 2)))
    assert [came["kv_bytes"] > 0 for came in played] == [True, False, False, False]


def test_one_share_alone_exchanges_nothing(crew):
    played = check_equal(crew, make_spec(Helix(kvp=1, tp=2)), MIXED[:4])
    assert not any(spans(came, Phase.ALL_TO_ALL) for came in played[:2])


@pytest.mark.parametrize("plan", [Helix(kvp=4), Helix(kvp=2, tp=2)], ids=str)
def test_the_check_before_a_run_puts_keys_on_every_share(plan):
    spec, requests = probe(make_spec(plan, block=16, prefill_chunk=32))
    deal = Deal(tuple(range(plan.kvp)))
    assert all(
        any(deal.tokens(request.cached, spec.block, keeper) for request in requests)
        for keeper in range(plan.kvp)
    )
    assert any(request.context > spec.prefill_chunk for request in requests)


@pytest.mark.parametrize(
    ("keys", "even"),
    [
        ([0, 1, 2], slice(0, 3)),
        ([2, 2, 3, 3], slice(2, 4)),
        ([1, 1, 1], slice(1, 2)),
        ([0, 0, 1], None),
        ([0, 1, 1], None),
    ],
)
def test_key_heads_are_a_slice_where_each_serves_as_many_queries(keys, even):
    assert _evenly(keys) == even
