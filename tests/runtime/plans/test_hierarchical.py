"""`reduction="hierarchical"`: partials are merged among the pool ranks of a node before they leave.

Nodes are what `ranks_per_node` says, on one host; what is generated equals one device's, and what
passes between the ranks is what the option says.
"""

import pytest

from fapool.phases import Phase
from fapool.spec import FAPool
from fapool.topology import node_of
from tests.runtime.plans.test_prefill import LONG
from tests.runtime.test_equality import (
    GQA,
    MHA,
    MIXED,
    MQA,
    check_equal,
    fapool,
    make_model,
    make_spec,
)

pytestmark = [pytest.mark.ranks, pytest.mark.untimed]


def merging(base: int, pool: int, **changes) -> FAPool:
    return fapool(base, pool, reduction="hierarchical", **changes)


POOLS = [(1, 3, MHA, None), (1, 3, GQA, 2), (1, 3, MQA, 3), (1, 2, GQA, None), (2, 2, MQA, None)]


@pytest.mark.parametrize(("base", "pool", "kv_heads", "per_node"), POOLS)
def test_pools_that_merge_inside_their_nodes_equal_one_device(crew, base, pool, kv_heads, per_node):
    plan = merging(base, pool)
    check_equal(crew, make_spec(plan, model=make_model(kv_heads), ranks_per_node=per_node))


@pytest.mark.parametrize("overlap", ["always", "never"])
@pytest.mark.parametrize("base_attends", [False, True])
def test_halves_and_pieces_that_are_merged_in_nodes_equal_one_device(crew, overlap, base_attends):
    plan = merging(1, 3, overlap=overlap, base_attends=base_attends)
    check_equal(crew, make_spec(plan, model=make_model(GQA), batch=6, ranks_per_node=2), LONG)


@pytest.mark.parametrize("lease_ranks", [1, 2])
def test_narrow_leases_that_are_merged_in_nodes_equal_one_device(crew, lease_ranks):
    plan = merging(1, 3, lease_ranks=lease_ranks)
    check_equal(crew, make_spec(plan, batch=4), (*MIXED, *LONG))


@pytest.mark.parametrize("batch", [1, 64])
def test_one_slot_and_many_that_are_merged_in_nodes_equal_one_device(crew, batch):
    check_equal(crew, make_spec(merging(1, 3), batch=batch, ranks_per_node=2))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_merged_partials_of_other_dtypes_stay_within_their_tolerance(crew, dtype):
    check_equal(crew, make_spec(merging(1, 3), model=make_model(GQA, dtype=dtype)))


@pytest.mark.parametrize("per_node", [None, 3, 2])
def test_the_base_gets_one_partial_a_node_in_decode_and_each_row_once_a_node_in_prefill(
    crew, per_node
):
    """45 tokens in chunks of 8 over 3 columns, then 3 decode steps; blocks of 4."""
    spec = make_spec(merging(1, 3, overlap="never"), batch=1, ranks_per_node=per_node)
    base, *_ = check_equal(crew, spec, ((45, 4),))
    nodes = [node_of(spec, rank) for rank in (1, 2, 3)]
    leads = {nodes.index(node) + 1 for node in nodes}
    decoded = sent_to_base(base, ":link")
    row = spec.model.heads * (spec.model.head_dim + 1) * 8 * spec.model.layers
    assert decoded == dict.fromkeys(leads, 3 * row)
    prefilled = sent_to_base(base, ":answers")
    for node in set(nodes):
        members = [rank for rank in (1, 2, 3) if nodes[rank - 1] == node]
        first = 4 * (members[0] - 1)  # a column has keys once so many tokens are done
        rows = sum(min(8, 45 - start) for start in range(8, 45, 8) if start > first)
        got = [prefilled.get(rank, 0) / row for rank in members]
        assert sum(got) == rows
        assert max(got) - min(got) <= 8


def sent_to_base(base: dict, name: str) -> dict[int, int]:
    """Pool rank -> bytes of partials that came from it over the channels of a name."""
    found: dict[int, int] = {}
    events = base["events"]
    for phase, channel, size in zip(
        events["phase"], events["channel"], events["bytes"], strict=True
    ):
        if phase == Phase.WAIT_PARTIALS and channel.endswith(name) and size:
            rank = int(channel.partition(">")[0])
            found[rank] = found.get(rank, 0) + size
    return found
