"""What ranks share when they take their seats: all of a plan equally often, or torch waits."""

from types import SimpleNamespace

import pytest
import torch

from fapool.runtime import seat
from fapool.runtime.exchange import opening
from fapool.spec import FAPool, Static
from fapool.topology import place
from tests.synthetic import small_spec

CPU = torch.device("cpu")


class Team(SimpleNamespace):
    """A process group as one of its ranks has it."""

    @classmethod
    def of(cls, ranks: tuple[int, ...], rank: int) -> "Team | None":
        here = rank in ranks and len(ranks) > 1
        return cls(ranks=ranks, rank=ranks.index(rank), size=len(ranks)) if here else None


@pytest.fixture
def arenas(monkeypatch) -> list[tuple]:
    """(bytes, ranks of the group) of every arena made, without a device."""
    reduction = pytest.importorskip("fapool.runtime.exchange.reduction")
    made = []

    class FakeArena:
        def __init__(self, num_bytes: int, device: torch.device, group: Team) -> None:
            made.append((num_bytes, group.ranks))
            self.rank, self.size = group.rank, group.size
            self.address = lambda rank: 4096 * (1 + group.ranks[rank])

    fake = SimpleNamespace(
        get_world_size=lambda group: group.size, get_rank=lambda group: group.rank
    )
    monkeypatch.setattr(reduction, "dist", fake)
    monkeypatch.setattr(reduction, "Arena", FakeArena)
    monkeypatch.setattr(opening, "Arena", FakeArena)
    return made


def sums(spec, rank: int, by_all: bool):
    at = place(spec, rank)
    groups = SimpleNamespace(
        world=Team.of(tuple(range(spec.plan.world)), rank), peers=Team.of(at.tp_peers, rank)
    )
    sharing = SimpleNamespace(among=lambda group: group is not None)
    return seat._sum(spec, CPU, groups, sharing, by_all)


@pytest.mark.parametrize(("base", "pool"), [(2, 1), (2, 2), (4, 1), (1, 3)])
def test_every_rank_of_a_pooled_plan_shares_as_often_and_as_much_for_the_bases_sums(
    arenas, base, pool
):
    spec, seen = small_spec(plan=FAPool(base=base, pool=pool, threshold=64)), []
    for rank in range(spec.plan.world):
        found = sums(spec, rank, by_all=True)
        assert (found is not None) == (rank < base > 1)
        if found is not None:
            assert found._boxes.tolist() == [4096 * (1 + peer) for peer in range(base)]
        seen.append(arenas.copy())
        arenas.clear()
    assert all(each == seen[0] for each in seen)
    assert all(ranks == tuple(range(spec.plan.world)) for _, ranks in seen[0])


def test_where_all_ranks_sum_they_share_among_those_they_sum_with(arenas):
    spec = small_spec(plan=Static(tp=2, pp=2))
    for rank in range(4):
        assert sums(spec, rank, by_all=False) is not None
        peers = place(spec, rank).tp_peers
        assert [ranks for _, ranks in arenas] == [peers, peers]
        arenas.clear()
