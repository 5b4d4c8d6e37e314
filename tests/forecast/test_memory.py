"""The forecast of memory against a count of every token's block at every step."""

from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fapool import schedule
from fapool.deals import BASE
from fapool.errors import SpecError
from fapool.forecast.memory import check_fits, footprint, lease_book, peak_blocks
from fapool.phases import Owner
from fapool.spec import FAPool, Helix, Model, RunSpec, Static, TraceWorkload, Workload
from fapool.topology import home_deal, lease_width, lent_deal
from fapool.workload import Request

PLANS = st.one_of(
    st.builds(Static, tp=st.sampled_from([1, 2])),
    st.builds(
        FAPool,
        base=st.sampled_from([1, 2]),
        pool=st.integers(0, 5),
        threshold=st.integers(16, 90),
        lease_ranks=st.none(),
        base_attends=st.booleans(),
    ).filter(lambda plan: plan.pool or not plan.base_attends),
    st.builds(
        FAPool,
        pool=st.integers(2, 4),
        threshold=st.integers(16, 90),
        lease_ranks=st.sampled_from([1, 2, None]),
        kv=st.just("shared"),
    ),
    st.builds(Helix, kvp=st.sampled_from([1, 2, 4]), tp=st.sampled_from([1, 2])),
)
MANY = Model.preset("tiny", heads=6, kv_heads=6, ffn=96)
LENGTHS = st.lists(st.tuples(st.integers(1, 100), st.integers(1, 40)), min_size=1, max_size=10)


def make_spec(plan, *, batch: int = 2, model="tiny", context: int = 8, output: int = 1) -> RunSpec:
    work = Workload(batch=batch, context=context, output=output)
    return RunSpec(model=model, plan=plan, workload=work, block=16, prefill_chunk=32)


def blocks_touched(spec: RunSpec, requests: list[Request]) -> dict[int, int]:
    """Most blocks that hold a token at once, by keeper, from a walk over every step."""
    book, contexts = lease_book(spec), {request.id: request.context for request in requests}
    lengths: dict[int, int] = {}
    most: defaultdict[int, int] = defaultdict(int)
    for step in schedule.steps(requests, batch=spec.workload.batch, chunk=spec.prefill_chunk):
        for segment, tokens in book.due(step, contexts):
            promised = requests[segment.request].cached
            book.grant(segment.request, tokens=tokens, promised=promised)
        lengths |= {segment.request: segment.end for segment in step.segments}
        held: defaultdict[int, int] = defaultdict(int)
        for request, length in lengths.items():
            lease = book.leases.get(request)
            deal = lent_deal(spec, lease.columns) if lease else home_deal(spec)
            for block in range(-(-length // spec.block)):
                owners = [deal.pattern[block % len(deal.pattern)]]
                for keeper in deal.pattern if deal.copied else owners:
                    held[keeper] += 1
        for keeper, number in held.items():
            most[keeper] = max(most[keeper], number)
        book.give_back(step.finished)
        for request in step.finished:
            del lengths[request]
    return most


@given(PLANS, LENGTHS, st.integers(1, 4))
def test_what_is_reserved_holds_every_token_at_every_step(plan, lengths, batch):
    requests = [Request(id=i, context=c, output=o) for i, (c, o) in enumerate(lengths)]
    spec = make_spec(plan, batch=batch)
    reserved = peak_blocks(spec, requests)
    for keeper, number in blocks_touched(spec, requests).items():
        assert number <= reserved[keeper]


@pytest.mark.parametrize(
    ("kv", "blocks"),  # of 97 tokens 7, by 16: of four requests dealt out, or whole to each column
    [("sharded", {0: 12, 1: 8, 2: 8}), ("shared", dict.fromkeys(range(3), 28))],
)
def test_equal_requests_reserve_exactly_what_they_fill(kv, blocks):
    spec = make_spec(FAPool(pool=3, threshold=16, kv=kv), batch=4, context=90, output=8)
    requests = [Request(id=i, context=90, output=8) for i in range(4)]
    assert peak_blocks(spec, requests) == blocks_touched(spec, requests)
    assert peak_blocks(spec, requests) == blocks


def test_a_request_that_crosses_leaves_its_base_blocks_to_the_next():
    spec = make_spec(FAPool(pool=1, threshold=32), batch=1)
    requests = [Request(id=i, context=20, output=60) for i in range(3)]
    assert peak_blocks(spec, requests) == {BASE: 2, 0: 5}


def test_helix_shares_the_blocks_of_every_request():
    spec = make_spec(Helix(kvp=3), batch=2, model=MANY, context=90, output=8)  # 97: 7 blocks each
    assert [rank[Owner.KV] for rank in footprint(spec)] == [
        2 * blocks * 16 * spec.model.kv_bytes_per_token for blocks in (3, 2, 2)
    ]


def test_helix_weights_are_those_of_its_slices():
    """Query, key and value matrices are held by every rank of a slice, the rest once."""
    model, plan = Model.preset("cpu"), Helix(kvp=2, tp=2)
    ranks = footprint(make_spec(plan, model=model))
    wide = model.heads * model.head_dim
    per_layer = 3 * wide // 2 + wide // 4 + 2 * model.ffn // 4 + 2
    elements = (model.layers * per_layer + model.vocab + 1) * model.hidden
    assert [rank[Owner.WEIGHTS] for rank in ranks] == [elements * model.itemsize] * 4


def test_short_requests_never_reserve_in_the_pool():
    spec = make_spec(FAPool(pool=2, threshold=64), batch=4, context=60, output=4)
    assert Owner.KV in footprint(spec)[1]
    assert [rank[Owner.KV] for rank in footprint(spec)[1:]] == [0, 0]


def test_weights_of_all_ranks_add_up_to_the_model():
    model = Model.preset("cpu")
    whole = footprint(make_spec(Static(), model=model))[0][Owner.WEIGHTS]
    per_layer = 4 * model.hidden**2 + 2 * model.hidden * model.ffn + 2 * model.hidden
    elements = model.layers * per_layer + model.vocab * model.hidden + model.hidden
    assert whole == elements * model.itemsize
    halves = footprint(make_spec(Static(tp=2), model=model))
    norms_and_embedding = (2 * model.layers + 1) * model.hidden + model.vocab * model.hidden
    both = sum(rank[Owner.WEIGHTS] for rank in halves)
    assert both == whole + norms_and_embedding * model.itemsize
    pooled = footprint(make_spec(FAPool(pool=2, threshold=16), model=model))
    assert [rank[Owner.WEIGHTS] for rank in pooled] == [whole, 0, 0]


def test_kv_bytes_are_those_of_the_tokens_reserved():
    spec = make_spec(Static(tp=2), batch=3, context=30, output=3)
    per_rank = 3 * 32 * spec.model.kv_bytes_per_token // 2
    assert [rank[Owner.KV] for rank in footprint(spec)] == [per_rank] * 2


def test_the_width_of_a_lease_spreads_its_blocks():
    narrow = make_spec(FAPool(pool=4, threshold=16, lease_ranks=1), batch=1, context=160)
    wide = make_spec(FAPool(pool=4, threshold=16), batch=1, context=160)
    assert (lease_width(narrow), lease_width(wide)) == (1, 4)
    assert [rank[Owner.KV] for rank in footprint(narrow)[2:]] == [0, 0, 0]
    assert all(rank[Owner.KV] for rank in footprint(wide)[1:])


@pytest.mark.timeout(10)
def test_absurd_workloads_are_estimated_at_once():
    plan = FAPool(pool=2, threshold=4096)
    work = Workload(batch=2000, context=10**6, output=10**6)
    spec = RunSpec(model="tiny", plan=plan, workload=work, block=16, prefill_chunk=16)
    with pytest.raises(SpecError, match=r"workload = .*rank 1 would need .* GiB \(kv alone"):
        check_fits(spec, [2**36] * 3)


def test_what_fits_is_let_through_to_the_byte():
    spec = make_spec(FAPool(pool=2, threshold=16), batch=4, context=90, output=8)
    need = [sum(rank.values()) for rank in footprint(spec)]
    check_fits(spec, need)
    with pytest.raises(SpecError, match=r"rank 2 .*lower batch or context"):
        check_fits(spec, [*need[:2], need[2] - 1])


def test_a_model_that_is_too_large_is_named_as_the_cause():
    with pytest.raises(SpecError, match=r"model = .*weights alone"):
        check_fits(make_spec(Static(), model="13b"), [2**30])


def test_a_trace_is_not_read_again_where_its_requests_are_at_hand(tmp_path):
    gone = TraceWorkload(path=tmp_path / "gone.csv", sample=2)
    spec = make_spec(Static(tp=2)).replace(workload=gone)
    requests = [Request(id=0, context=20, output=4), Request(id=1, context=7, output=2)]
    assert footprint(spec, requests)[0][Owner.KV] > 0
