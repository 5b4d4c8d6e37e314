"""Who is who, against brute force: every slice held once, everybody's peers agreed upon."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fapool.deals import BASE
from fapool.errors import SpecError
from fapool.phases import Role
from fapool.spec import FAPool, Helix, Model, RunSpec, Static, Workload
from fapool.topology import (
    check_ranks,
    home_deal,
    kv_senders,
    lease_width,
    lent_deal,
    place,
    pool_mesh,
    share,
)

MODEL = {"layers": 5, "hidden": 64, "head_dim": 16, "ffn": 96, "vocab": 101, "dtype": "float32"}


def make_spec(plan, *, heads: int = 8, kv_heads: int = 8) -> RunSpec:
    model = Model(heads=heads, kv_heads=kv_heads, **MODEL)
    work = Workload(context=16, output=2)
    return RunSpec(model=model, plan=plan, workload=work, block=16, prefill_chunk=16)


def places(spec: RunSpec):
    return [place(spec, rank) for rank in range(spec.plan.world)]


@given(st.integers(0, 100), st.integers(1, 12))
def test_shares_are_consecutive_and_even(total, parts):
    shares = [share(total, parts, index) for index in range(parts)]
    assert [item for each in shares for item in each] == list(range(total))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("tp", [1, 2, 4])
@pytest.mark.parametrize("pp", [1, 2, 5])
def test_a_static_grid_holds_every_slice_of_every_layer_once(tp, pp):
    spec = make_spec(Static(tp=tp, pp=pp))
    for name in ("heads", "kv_heads", "ffn", "vocab"):
        total = spec.model.vocab if name == "vocab" else getattr(spec.model, name)
        held = sorted(
            (layer, item)
            for at in places(spec)
            for layer in at.layers
            for item in getattr(at, name)
        )
        assert held == [(layer, item) for layer in range(5) for item in range(total)]


def test_stages_form_chains_of_equal_slices():
    spec = make_spec(Static(tp=2, pp=3))
    found = places(spec)
    assert [at.next for at in found] == [2, 3, 4, 5, None, None]
    for at in found:
        assert at.rank in at.tp_peers
        if at.next is not None:
            assert found[at.next].previous == at.rank
            assert found[at.next].heads == at.heads
    assert [at.is_first for at in found] == [True, True] + [False] * 4
    assert [at.is_last for at in found] == [False] * 4 + [True, True]


HELIXES = [Helix(kvp=kvp, tp=tp) for kvp, tp in ((1, 1), (1, 4), (2, 1), (2, 2), (4, 2), (8, 1))]


@pytest.mark.parametrize("plan", HELIXES, ids=str)
@pytest.mark.parametrize("kv_heads", [1, 2, 8])
def test_helix_ranks_hold_every_head_of_every_block_and_everything_else_once(plan, kv_heads):
    spec = make_spec(plan, kv_heads=kv_heads)
    found = places(spec)
    for name, total in (("out_heads", 8), ("ffn", 96), ("vocab", 101)):
        assert [item for at in found for item in getattr(at, name)] == list(range(total))
    held = sorted(
        (kv, block) for at in found for kv in at.kv_heads for block in blocks_of(at, spec)
    )
    copies = max(1, plan.tp // kv_heads)
    assert held == sorted([(kv, block) for kv in range(kv_heads) for block in range(20)] * copies)
    assert all(at.tp_peers == tuple(range(plan.world)) for at in found)
    assert all(at.is_first and at.is_last and at.role is Role.BASE for at in found)


def blocks_of(at, spec: RunSpec) -> list[int]:
    """Those of 20 blocks that a rank has."""
    return [block for block in range(20) if home_deal(spec).owner(block) == at.keeper]


@pytest.mark.parametrize("plan", HELIXES, ids=str)
def test_helix_ranks_that_share_keys_attend_for_each_others_heads(plan):
    found = places(make_spec(plan))
    for at in found:
        peers = [found[rank] for rank in at.kv_peers]
        assert at in peers
        assert [peer.keeper for peer in peers] == list(range(plan.kvp))
        assert {peer.heads for peer in peers} == {at.heads}
        assert {peer.kv_heads for peer in peers} == {at.kv_heads}
        assert [head for peer in peers for head in peer.out_heads] == list(at.heads)


@pytest.mark.parametrize(
    "plan", [Static(tp=2, pp=2), FAPool(base=2, pool=2, threshold=16)], ids=str
)
def test_only_helix_puts_other_heads_into_the_output_matrix_than_it_attends_for(plan):
    for at in places(make_spec(plan)):
        assert at.out_heads == (range(0) if at.role is Role.POOL else at.heads)
        assert at.kv_peers == ()


@pytest.mark.parametrize("base", [1, 2, 4])
@pytest.mark.parametrize("pool", [0, 1, 2, 3, 4, 6])
@pytest.mark.parametrize("kv_heads", [1, 2, 8])
def test_base_and_pool_ranks_agree_on_who_talks_to_whom(base, pool, kv_heads):
    spec = make_spec(FAPool(base=base, pool=pool, threshold=16), kv_heads=kv_heads)
    found = places(spec)
    talk = {(at.rank, other) for at in found for other in at.partners}
    assert talk == {(other, rank) for rank, other in talk}
    groups, columns = pool_mesh(spec.model, spec.plan)
    assert groups * columns == pool or pool == 0
    for at in found:
        if at.role is Role.POOL:
            assert [found[rank].role for rank in at.partners] == [Role.BASE] * (base // groups)
            heads = {head for rank in at.partners for head in found[rank].heads}
            assert heads == set(at.heads)
            assert {kv for rank in at.partners for kv in found[rank].kv_heads} == set(at.kv_heads)
        elif pool:
            assert [found[rank].keeper for rank in at.partners] == list(range(columns))


@pytest.mark.parametrize(("base", "kv_heads"), [(1, 8), (2, 8), (4, 2), (4, 1), (2, 2)])
def test_each_kv_head_is_sent_to_the_pool_once_by_a_rank_that_holds_it(base, kv_heads):
    spec = make_spec(FAPool(base=base, pool=2, threshold=16), kv_heads=kv_heads)
    sent = kv_senders(spec.model, spec.plan)
    assert sorted(head for heads in sent.values() for head in heads) == list(range(kv_heads))
    for rank, heads in sent.items():
        assert set(heads) <= set(place(spec, rank).kv_heads)


@pytest.mark.parametrize("base", [1, 2, 4])
@pytest.mark.parametrize("pool", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("kv_heads", [1, 2, 8])
def test_base_and_columns_that_attend_together_read_equally_long(base, pool, kv_heads):
    """What a rank reads of a round of blocks: its blocks times its KV heads."""
    plan = FAPool(base=base, pool=pool, threshold=16, base_attends=True)
    spec = make_spec(plan, kv_heads=kv_heads)
    columns = range(pool_mesh(spec.model, plan)[1])
    deal = lent_deal(spec, columns)
    assert set(deal.keepers) == {BASE, *columns}
    read = {deal.pattern.count(at.keeper) * len(at.kv_heads) for at in places(spec)}
    assert len(read) == 1


@pytest.mark.parametrize("columns", [(0,), (2, 0), (0, 1, 2)])
def test_a_lease_is_dealt_to_its_columns_alone_unless_the_base_attends(columns):
    lone = make_spec(FAPool(base=1, pool=3, threshold=16))
    assert lent_deal(lone, columns).pattern == columns
    joint = make_spec(FAPool(base=1, pool=3, threshold=16, base_attends=True))
    assert lent_deal(joint, columns).pattern == (BASE, *columns)


@pytest.mark.parametrize(
    ("base", "pool", "kv_heads", "per_node", "teams"),
    [
        (1, 3, 8, None, [((0, 1, 2),)] * 4),
        (1, 3, 8, 2, [((0,), (1, 2))] * 4),  # nodes 0 1 | 2 3
        (1, 7, 8, 4, [((0, 1, 2), (3, 4, 5, 6))] * 8),
        (2, 4, 8, 3, [((0,), (1,)), ((0, 1),)] * 3),  # two head groups: 0 1 2 | 3 4 5
    ],
)
def test_columns_of_a_node_merge_what_they_have(base, pool, kv_heads, per_node, teams):
    plan = FAPool(base=base, pool=pool, threshold=16, reduction="hierarchical")
    spec = make_spec(plan, kv_heads=kv_heads).replace(ranks_per_node=per_node)
    assert [at.teams for at in places(spec)] == teams
    for at in places(spec)[base:]:
        assert at.keeper in at.team


def test_columns_merge_nothing_unless_that_is_asked_for():
    spec = make_spec(FAPool(base=1, pool=3, threshold=16)).replace(ranks_per_node=4)
    assert {at.teams for at in places(spec)} == {((0,), (1,), (2,))}


@pytest.mark.parametrize("columns", [(0,), (2, 0), (0, 1, 2)])
def test_each_column_of_a_lease_that_shares_keys_has_all_blocks(columns):
    deal = lent_deal(make_spec(FAPool(pool=3, threshold=16, kv="shared")), columns)
    assert deal.keepers == columns
    assert [deal.blocks(10, column) for column in columns] == [10] * len(columns)


@pytest.mark.parametrize(
    ("plan", "width"),
    [
        (Static(tp=2), 0),
        (FAPool(pool=0, threshold=16), 0),
        (FAPool(pool=3, threshold=16), 3),
        (FAPool(pool=3, threshold=16, lease_ranks=2), 2),
        (FAPool(base=2, pool=4, threshold=16), 2),
    ],
)
def test_a_lease_takes_columns_of_the_pool(plan, width):
    assert lease_width(make_spec(plan)) == width


@pytest.mark.parametrize(
    ("plan", "available", "way_out"),
    [
        (FAPool(base=1, pool=4, threshold=16), 4, r"plan\.pool = 4: at most 3 with 4 ranks"),
        (FAPool(base=4, pool=1, threshold=16), 4, "takes 5 ranks; 4 are at hand"),
        (Static(tp=2, pp=2), 3, "takes 4 ranks; 3 are at hand"),
        (Helix(kvp=2, tp=2), 3, r"plan = 'Helix\(2,2\)': takes 4 ranks; 3 are at hand"),
    ],
)
def test_more_ranks_than_there_are_is_refused(plan, available, way_out):
    with pytest.raises(SpecError, match=way_out):
        check_ranks(make_spec(plan), available)
    check_ranks(make_spec(plan), plan.world)
