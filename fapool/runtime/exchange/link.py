"""The contract of the fixed-shape exchange, and who stands at its ends: pure arithmetic.

One request and one answer per layer, all B rows of a batch each time, so that a step can be
captured in a CUDA graph. Rows whose keys do not lie on a pool rank get an empty partial there.

    base rank                                      pool rank
    begin()                                        begin()
    ask(l, q, k, v)      --- q, new k, new v --->  q, k, v = queries(l)
      (own partial)                                  (append, partial over its blocks)
    out = collect(l, own) <---- out, lse --------  answer(l, partial)

Pool ranks may merge their partials in teams first: then the first of a team answers for all of it.

    shapes:  B rows, H heads of a base rank, Hg heads and Kg KV heads of a head group, D head dim
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from fapool.phases import Role
from fapool.runtime.attention.base import Unmerged
from fapool.runtime.partial import Partial
from fapool.spec import FAPool, RunSpec
from fapool.topology import Place, kv_senders, place

Append = tuple[Tensor, Tensor, Tensor]
"""k_pages, v_pages [N, P, Kg, D] contiguous; slots [B] int32, block * P + offset, -1: not here."""


class BaseLink(Protocol):
    """The exchange on a base rank; its calls run on the current stream."""

    held_bytes: int  # of the device's memory, for good

    def begin(self, rows: int | None = None) -> None:
        """Once per step, before layer 0, on every rank of the plan; inside the graph, if any.

        The step has `rows` rows, at most (and when left out) as many as the link was made for.
        """

    def ask(self, layer: int, q: Tensor, k: Tensor, v: Tensor, owner: Tensor | None = None) -> None:
        """Send q [B, H, D] and the new k, v [B, Ks, D] to every column.

        Ks: the KV heads that this base sends (`Route.sends`), maybe none. `owner` [B] int32, where
        it is given, names the column that stores a row's new key: the others need not get it.
        """

    def collect(self, layer: int, own: Partial | None) -> Tensor:
        """[B, H, D] in q's dtype: every answer, merged with `own`; after `ask`."""


class PoolLink(Protocol):
    """The exchange on a pool rank; its calls run on the current stream."""

    held_bytes: int  # see `BaseLink`

    def begin(self, rows: int | None = None) -> None:
        """See `BaseLink.begin`."""

    def queries(self, layer: int, append: Append | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """q [B, Hg, D], k and v [B, Kg, D] of the head group; good until `answer` of this layer.

        With `append` the new keys whose slot is not negative are in the pages, too, when what
        follows on the stream runs. k and v hold only rows that this column owns where bases name
        owners.
        """

    def answer(self, layer: int, part: Partial) -> None:
        """Send every base partner its heads of `part` (out [B, Hg, D], lse [B, Hg]).

        In a team, `part` goes to its first rank, which sends on what it has merged.
        """

    @property
    def takes_items(self) -> bool:
        """Whether this step may be answered by `answer_items`: one kernel less, in small steps."""

    def answer_items(self, layer: int, items: Unmerged) -> None:
        """`answer` with what its items come to, merged on the way."""


@dataclass(frozen=True, kw_only=True)
class End:
    """Another rank that a link leads to, and what passes between the two."""

    rank: int
    index: int  # of this rank among the ends of that rank
    heads: range  # of the head group
    kv_heads: range  # of the head group; empty where another base holds the same KV heads


@dataclass(frozen=True, kw_only=True)
class Route:
    """One rank's end of the exchange."""

    rank: int
    world: int
    role: Role
    layers: int
    head_dim: int
    group_heads: int  # Hg
    group_kv_heads: int  # Kg
    base_heads: int  # H, of every base rank
    columns: int  # pool ranks that a base rank talks to
    heads: range  # of the head group: all of a pool rank, its own of a base rank
    kv_heads: range  # of the head group: all of a pool rank, those that a base rank sends
    sends: slice  # of a base rank's own KV heads, those that it sends
    ends: tuple[End, ...]  # pool ranks by column, or base ranks by head
    answers: tuple[End, ...]  # those of `ends` that partials come from, or go to
    team: tuple[int, ...]  # of a pool rank: ranks that merge their partials, who answers first


def route(spec: RunSpec, rank: int) -> Route:
    """The exchange as `rank` of a FAPool plan sees it."""
    assert isinstance(spec.plan, FAPool)
    me, model, sent = place(spec, rank), spec.model, kv_senders(spec.model, spec.plan)
    pool = me if me.role is Role.POOL else place(spec, me.partners[0]) if me.partners else me

    def passed(base: int) -> tuple[range, range]:
        heads, first, first_kv = place(spec, base).heads, pool.heads.start, pool.kv_heads.start
        return (
            range(heads.start - first, heads.stop - first),
            range(sent[base].start - first_kv, sent[base].stop - first_kv),
        )

    ends = []
    for other in me.partners:
        heads, kv_heads = passed(rank if me.role is Role.BASE else other)
        index = place(spec, other).partners.index(rank)
        ends.append(End(rank=other, index=index, heads=heads, kv_heads=kv_heads))
    answers, team = _merged(spec, me, ends)
    own = range(len(pool.heads)), range(len(pool.kv_heads))
    heads, kv_heads = own if me.role is Role.POOL else passed(rank)
    held = me.kv_heads.start
    mine = sent.get(rank, range(held, held))
    return Route(
        rank=rank,
        world=me.world,
        role=me.role,
        layers=model.layers,
        head_dim=model.head_dim,
        group_heads=len(pool.heads),
        group_kv_heads=len(pool.kv_heads),
        base_heads=model.heads // spec.plan.base,
        columns=len(place(spec, pool.partners[0]).partners) if pool.partners else 0,
        heads=heads,
        kv_heads=kv_heads,
        sends=slice(mine.start - held, mine.stop - held),
        ends=tuple(ends),
        answers=answers,
        team=team,
    )


def _merged(spec: RunSpec, me: Place, ends: list[End]) -> tuple[tuple[End, ...], tuple[int, ...]]:
    """(Ends that partials pass, ranks of the team) of a rank with these ends."""
    if me.role is Role.BASE:
        leads = {me.partners[team[0]] for team in me.teams}
        return tuple(end for end in ends if end.rank in leads), ()
    team = tuple(column_ranks(spec, me)[column] for column in me.team)
    return tuple(ends) if me.rank == team[0] else (), team


def column_ranks(spec: RunSpec, me: Place) -> tuple[int, ...]:
    """The pool ranks of a pool rank's heads, by column."""
    return place(spec, me.partners[0]).partners
