"""Prefill of FAPool in pieces, several of them in flight and over the border of steps: what is
generated equals one device's, and the messages are those that the pieces need.

Chunks of 8 tokens are cut in pieces of 2, blocks have 4, so that pieces end within blocks and
requests within pieces.
"""

import pytest

from fapool.deals import BASE
from fapool.forecast.buffers import lane_bytes
from fapool.phases import Phase
from fapool.pieces import IN_FLIGHT, piece_rows
from fapool.runtime.batch import pieces
from fapool.schedule import steps
from fapool.spec import FAPool, Workload
from fapool.topology import lease_width, lent_deal, place
from fapool.workload import Request
from tests.runtime.test_equality import (
    BLOCK,
    GQA,
    MHA,
    MQA,
    THRESHOLD,
    check_equal,
    fapool,
    make_model,
    make_spec,
)

pytestmark = [pytest.mark.ranks, pytest.mark.untimed]

LONG = ((41, 2), (13, 1), (3, 2), (17, 3), (12, 4), (30, 1))
"""In one wave of six: leased and not in one piece, and two leased ones in one."""


def always(base: int, pool: int, **changes) -> FAPool:
    return fapool(base, pool, overlap="always", **changes)


SHAPES = [(1, 3, MHA), (1, 1, GQA), (2, 2, GQA), (2, 1, MQA)]


@pytest.mark.parametrize(("base", "pool", "kv_heads"), SHAPES)
@pytest.mark.parametrize("base_attends", [False, True])
def test_pieces_in_flight_equal_one_device(crew, base, pool, kv_heads, base_attends):
    plan = always(base, pool, base_attends=base_attends)
    check_equal(crew, make_spec(plan, model=make_model(kv_heads), batch=6), LONG)


def test_pieces_of_leases_narrower_than_the_pool_equal_one_device(crew):
    spec = make_spec(always(1, 3, lease_ranks=2), model=make_model(GQA), batch=3)
    check_equal(crew, spec, LONG)


@pytest.mark.parametrize(("chunk", "block"), [(4, 4), (12, 3), (40, 5)])
def test_pieces_of_one_token_and_of_many_equal_one_device(crew, chunk, block):
    spec = make_spec(always(1, 2, base_attends=True), prefill_chunk=chunk, block=block, batch=4)
    check_equal(crew, spec, LONG)


def test_one_layer_ends_a_piece_in_the_step_after_it(crew):
    check_equal(crew, make_spec(always(1, 2), model=make_model(layers=1), batch=2), LONG)


def test_a_prompt_alone_is_answered_by_every_column_that_has_some_of_what_came_before(crew):
    """45 tokens, blocks of 4 over 2 columns: column 1 has keys once 4 < 6 tokens are done."""
    spec = make_spec(always(1, 2), batch=1)
    base, *pool = check_equal(crew, spec, ((45, 1),))
    cut = cut_steps(spec, ((45, 1),))
    starts = [piece[0].start for found in cut for piece in found]
    assert max(map(len, cut)) == IN_FLIGHT
    layers, itemsize = range(spec.model.layers), 8
    row = spec.model.heads * (spec.model.head_dim + 1) * itemsize
    for column, came in enumerate(pool):
        asked = [start for start in starts if start > 4 * column]
        rows = sum(min(2, 45 - start) for start in asked)
        sent = [
            b
            for b, p in zip(*columns(came, "bytes", "phase"), strict=True)
            if p == Phase.SEND_PARTIALS
        ]
        assert sum(sent) == rows * row * len(layers)
    for came in (base, *pool):
        numbered = [
            (channel, sequence)
            for channel, sequence in zip(*columns(came, "channel", "sequence"), strict=True)
            if channel
        ]
        assert len(set(numbered)) == len(numbered)


@pytest.mark.parametrize("overlap", ["never", "always"])
def test_no_receive_of_a_query_is_posted_that_hinges_on_an_answer_of_ours(crew, overlap):
    """Of one piece layer by layer; while another piece is served, from the second layer on."""
    spec = make_spec(fapool(1, 1, overlap=overlap), model=make_model(layers=3), batch=1)
    spec = spec.replace(workload=Workload(batch=1, context=30, output=1))
    _, pool = check_equal(crew, spec, ((30, 1),))
    names = "step", "layer", "phase", "start_ns"
    rows = sorted(zip(*columns(pool, *names), strict=True), key=lambda row: row[-1])
    rows = [row[:3] for row in rows if row[2] in (Phase.POST, Phase.SEND_PARTIALS)]
    for step in {step for step, *_ in rows}:
        posted = sent = 0
        for _, layer, phase in [row for row in rows if row[0] == step]:
            posted += phase == Phase.POST
            sent += phase == Phase.SEND_PARTIALS
            most = 2 if overlap == "always" and layer > 0 else 1
            assert 0 <= posted - sent <= most
        assert posted == sent


HELD = [(1, 1, MHA, "flat"), (1, 3, GQA, "flat"), (2, 2, GQA, "flat"), (1, 3, MHA, "hierarchical")]


@pytest.mark.parametrize(
    ("overlap", "chunk", "number"), [("never", 8, 1), ("always", 2, 2), ("always", 8, 4)]
)
@pytest.mark.parametrize(("base", "pool", "kv_heads", "reduction"), HELD)
def test_no_layer_is_held_beside_what_lanes_count_and_the_forecast_has(
    crew, base, pool, kv_heads, reduction, overlap, chunk, number
):
    plan = fapool(base, pool, overlap=overlap, reduction=reduction)
    model, sizes = make_model(kv_heads, layers=3), {"prefill_chunk": chunk, "block": min(4, chunk)}
    spec = make_spec(plan, model=model, batch=1, **sizes)
    assert -(-chunk // piece_rows(spec)) == number
    found = crew.ask("lanes", spec=spec.to_json(), requests=[(40, 1)])
    for rank, lanes in enumerate(found[: spec.plan.world]):
        assert len(lanes) == (3 if reduction == "hierarchical" and rank else 2)
        assert [counted for counted, _ in lanes] == [there for _, there in lanes]
        held, forecast = sum(counted for counted, _ in lanes), lane_bytes(spec, place(spec, rank))
        assert held <= forecast < 2 * held
        assert rank >= base or held == forecast


def columns(came: dict, *names: str) -> list[list]:
    return [list(came["events"][name]) for name in names]


def cut_steps(spec, requests) -> list[list]:
    asked = [Request(id=i, context=c, output=o) for i, (c, o) in enumerate(requests)]
    found = steps(asked, batch=spec.workload.batch, chunk=spec.prefill_chunk)
    rows = piece_rows(spec)
    return [pieces(step.segments, rows) for step in found if step.kind == "prefill"]


@pytest.mark.parametrize(("base", "pool", "kv_heads"), SHAPES)
def test_where_nothing_is_decoded_the_pool_opens_a_request_and_the_base_joins_later(
    crew, base, pool, kv_heads
):
    """Opening, border and rounds: prompts that end before, at and after the base's first block."""
    model = make_model(kv_heads, hidden=16, heads=8, head_dim=16, ffn=16)
    spec = make_spec(always(base, pool, base_attends=True), model=model, batch=2)
    spec = spec.replace(workload=Workload(batch=2, context=160, output=1))
    first = lent_deal(spec, range(lease_width(spec))).pattern.index(BASE) * BLOCK
    assert THRESHOLD <= first < 140
    lengths = (160, first - 1, first, first + 1, 5, first + 2 * BLOCK + 3)
    check_equal(crew, spec, tuple((length, 1) for length in lengths))


def test_steps_in_which_nobody_is_leased_stay_whole(crew):
    spec = make_spec(always(1, 1), batch=2)
    base, pool = check_equal(
        crew, spec.replace(workload=Workload(batch=2, context=12, output=1)), ((12, 1), (9, 1))
    )
    assert set(base["events"]["micro_batch"]) == {-1}
    assert sum(pool["events"]["bytes"]) == 0
