"""Who rank r is, by arithmetic alone: role, peers, slices of the model, keeper of KV blocks.

World = base ranks first, then pool ranks. The pool is a mesh of `groups` head groups by
`columns`: a column holds a share of a request's KV blocks, a head group a share of its heads, so
that a base rank talks only to the pool ranks of its heads:

        pool rank base + column * groups + group

                     group 0        group 1          base 4, pool 4, kv_heads >= 2:
        column 0     rank 4         rank 5           groups = 2, columns = 2;
        column 1     rank 6         rank 7           base ranks 0, 1 talk to 4, 6; 2, 3 to 5, 7

Helix has `tp` slices of heads by `kvp` shares of the KV blocks. The ranks of a slice stand side by
side, so that after their exchange rank r has the r-th share of all heads:

        rank slice * kvp + share
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from math import gcd

from fapool.balance import decode_weights, only_prefills, prefill_turns
from fapool.deals import BASE, HOME, Deal, weighted
from fapool.errors import SpecError
from fapool.phases import Role
from fapool.spec import FAPool, Helix, Model, RunSpec


@dataclass(frozen=True, kw_only=True)
class Place:
    """One rank's place in its plan. Ranges are global indices of the whole model."""

    rank: int
    world: int
    role: Role
    heads: range  # whose queries it projects and attends for
    out_heads: range  # whose attention it puts into the output matrix
    kv_heads: range
    layers: range
    ffn: range
    vocab: range
    tp_peers: tuple[int, ...]  # ranks that share this rank's layers, itself included
    previous: int | None = None  # rank that feeds this stage
    next: int | None = None  # rank that this stage feeds
    group: int | None = None  # head group, of a pool rank
    keeper: int = BASE  # whose KV blocks it holds: a pool rank those of its column
    kv_peers: tuple[int, ...] = ()  # ranks of its heads with a share of the blocks each, by keeper
    partners: tuple[int, ...] = ()  # pool ranks of a base rank's heads, by column; or the reverse
    teams: tuple[tuple[int, ...], ...] = ()  # columns whose partials of its heads come merged

    @property
    def team(self) -> tuple[int, ...]:
        """The columns of a pool rank's team, its own among them."""
        return next(team for team in self.teams if self.keeper in team)

    @property
    def is_first(self) -> bool:
        """Holds the embedding's end of the pipeline."""
        return self.role is Role.BASE and self.previous is None

    @property
    def is_last(self) -> bool:
        """Turns hidden states into tokens."""
        return self.role is Role.BASE and self.next is None


def place(spec: RunSpec, rank: int) -> Place:
    """The place of `rank` (0 <= rank < spec.plan.world)."""
    assert 0 <= rank < spec.plan.world, f"rank {rank} outside of {spec.plan}"
    if isinstance(spec.plan, FAPool):
        return _place_fapool(spec, spec.plan, rank)
    if isinstance(spec.plan, Helix):
        return _place_helix(spec.model, spec.plan, rank)
    tp, pp, model = spec.plan.tp, spec.plan.pp, spec.model
    stage, index = divmod(rank, tp)
    return Place(
        rank=rank,
        world=spec.plan.world,
        role=Role.BASE,
        layers=share(model.layers, pp, stage),
        tp_peers=tuple(range(stage * tp, (stage + 1) * tp)),
        previous=rank - tp if stage else None,
        next=rank + tp if stage < pp - 1 else None,
        **_slices(model, tp, index),
    )


def _place_fapool(spec: RunSpec, plan: FAPool, rank: int) -> Place:
    model = spec.model
    groups, columns = pool_mesh(model, plan)
    per_group = plan.base // groups
    group = rank // per_group if rank < plan.base else (rank - plan.base) % groups
    common = {"rank": rank, "world": plan.world, "layers": range(model.layers)}
    common["teams"] = _teams(spec, plan, group)
    if rank < plan.base:
        partners = tuple(plan.base + column * groups + group for column in range(columns))
        peers = tuple(range(plan.base))
        slices = _slices(model, plan.base, rank)
        return Place(role=Role.BASE, tp_peers=peers, partners=partners, **common, **slices)
    return Place(
        role=Role.POOL,
        tp_peers=(),
        group=group,
        keeper=(rank - plan.base) // groups,
        partners=tuple(range(group * per_group, (group + 1) * per_group)),
        **common,
        **(_slices(model, groups, group) | dict.fromkeys(("out_heads", "ffn", "vocab"), range(0))),
    )


def _teams(spec: RunSpec, plan: FAPool, group: int) -> tuple[tuple[int, ...], ...]:
    """Columns by the node of their rank of a head group; each alone where nothing is merged."""
    groups, columns = pool_mesh(spec.model, plan)
    if plan.reduction == "flat":
        return tuple((column,) for column in range(columns))
    teams: dict[int, tuple[int, ...]] = {}
    for column in range(columns):
        node = node_of(spec, plan.base + column * groups + group)
        teams[node] = (*teams.get(node, ()), column)
    return tuple(teams.values())


def node_of(spec: RunSpec, rank: int) -> int:
    """The number of the node that a rank is on."""
    return rank // (spec.ranks_per_node or spec.plan.world)


def _place_helix(model: Model, plan: Helix, rank: int) -> Place:
    index, keeper = divmod(rank, plan.kvp)
    attended = _slices(model, plan.tp, index)
    return Place(
        rank=rank,
        world=plan.world,
        role=Role.BASE,
        layers=range(model.layers),
        tp_peers=tuple(range(plan.world)),
        keeper=keeper,
        kv_peers=tuple(range(index * plan.kvp, (index + 1) * plan.kvp)),
        **(_slices(model, plan.world, rank) | {k: attended[k] for k in ("heads", "kv_heads")}),
    )


def pool_mesh(model: Model, plan: FAPool) -> tuple[int, int]:
    """(head groups, columns) of the pool: as many groups as divide base, pool and KV heads."""
    groups = gcd(plan.base, plan.pool, model.kv_heads) if plan.pool else 1
    return groups, plan.pool // groups


def lease_width(spec: RunSpec) -> int:
    """Columns that one lease takes; 0 without a pool."""
    if not isinstance(spec.plan, FAPool):
        return 0
    _, columns = pool_mesh(spec.model, spec.plan)
    return min(columns, spec.plan.lease_ranks or columns)


def share(total: int, parts: int, index: int) -> range:
    """The `index`-th of `parts` consecutive shares of `total`, sizes differing by one at most."""
    return range(total * index // parts, total * (index + 1) // parts)


def kv_senders(model: Model, plan: FAPool) -> dict[int, range]:
    """Base rank -> KV heads that it sends to the pool: each head once, by its lowest holder."""
    sent: dict[int, range] = {}
    done = 0
    for rank in range(plan.base):
        held = _kv_heads(model, plan.base, rank)
        sent[rank] = range(max(held.start, done), max(held.stop, done))
        done = max(done, held.stop)
    return sent


def home_deal(spec: RunSpec) -> Deal:
    """How the blocks of a request without a lease are dealt."""
    return Deal(tuple(range(spec.plan.kvp))) if isinstance(spec.plan, Helix) else HOME


def lent_deal(spec: RunSpec, columns: Sequence[int]) -> Deal:
    """How the blocks of a request leased on `columns` are dealt: to them in turn, or all to each.

    Where the base attends as well, its share is such that decode steps are shortest; where nothing
    is decoded, such that base and columns are busy throughout a prefill. Maybe it keeps none.
    """
    model, plan = spec.model, spec.plan
    if not plan.base_attends:
        return Deal(tuple(columns), copied=plan.kv == "shared")
    groups, _ = pool_mesh(model, plan)
    if only_prefills(spec):
        return _prefill_deal(spec, columns, groups)
    kept, turn = decode_weights(spec, len(columns), groups)
    return _in_turn(kept, turn, columns)


def _prefill_deal(spec: RunSpec, columns: Sequence[int], groups: int) -> Deal:
    """One round that is as long as a request: at first its blocks are the columns' alone."""
    opening, (kept, turn) = prefill_turns(spec, len(columns), len(columns) * groups)
    number = -(-spec.workload.context // spec.block)
    later = cycle(_in_turn(kept, turn, columns).pattern)
    owners = [columns[b % len(columns)] if b < opening else next(later) for b in range(number)]
    return Deal(tuple(owners))


def _in_turn(kept: int, turn: int, columns: Sequence[int]) -> Deal:
    own = [(BASE, kept)] if kept else []
    return weighted([*own, *((column, turn) for column in columns)])


def check_ranks(spec: RunSpec, available: int) -> None:
    """Refuse a plan that takes more ranks than there are.

    Raises:
        SpecError: names the field to lower.
    """
    plan = spec.plan
    if plan.world <= available:
        return
    if isinstance(plan, FAPool) and plan.base < available:
        room = available - plan.base
        raise SpecError("plan.pool", plan.pool, f"at most {room} with {available} ranks at hand")
    raise SpecError("plan", str(plan), f"takes {plan.world} ranks; {available} are at hand")


def _slices(model: Model, tp: int, index: int) -> dict[str, range]:
    return {
        "heads": share(model.heads, tp, index),
        "out_heads": share(model.heads, tp, index),
        "kv_heads": _kv_heads(model, tp, index),
        "ffn": share(model.ffn, tp, index),
        "vocab": share(model.vocab, tp, index),
    }


def _kv_heads(model: Model, tp: int, index: int) -> range:
    heads = share(model.heads, tp, index)
    per_kv = model.heads // model.kv_heads
    return range(heads.start // per_kv, (heads.stop - 1) // per_kv + 1)
