"""How a model is laid out on ranks."""

from __future__ import annotations

from math import gcd
from typing import Annotated, Literal

from pydantic import Field

from fapool.errors import SpecError
from fapool.spec.base import Count, Strict
from fapool.spec.model import Model


class Static(Strict):
    """Tensor parallel over `tp` ranks, pipeline over `pp` stages; never changes.

    A step is cut into `micro_batches`, None: one per stage. A request's tokens of one step stay
    together, so that a step never has more micro-batches than requests.
    """

    kind: Literal["static"] = "static"
    tp: Count = 1
    pp: Count = 1
    micro_batches: Count | None = None

    @property
    def world(self) -> int:
        """Ranks that it takes."""
        return self.tp * self.pp

    def __str__(self) -> str:
        return f"Static({self.tp},{self.pp})"


class FAPool(Strict):
    """A static base plus a pool whose ranks are leased to requests longer than `threshold`.

    `threshold` is in tokens of the published workload: a trace's `length_scale` shrinks it as it
    shrinks the lengths. A request whose prompt is longer is leased before its first chunk, any
    other as soon as more than `threshold` of its tokens have keys. `lease_ranks` is how many
    shards of the pool one lease takes; None takes all. `base_attends`: the base keeps a share of a
    leased request's keys, so that it attends as well while the pool does. `overlap`: decode in two
    half-batches, by itself only where the base's products then hide behind the pool's attention;
    prefill in pieces of a chunk, by itself only while these stay large.

    `kv`: `sharded` deals a request's keys out to the shards of its lease, which all attend for each
    of its queries. `shared` gives all keys to each of them and shares out the queries: those of a
    prefill evenly, in decode whole requests, so that a request alone is attended by one. It takes
    as many times the memory, needs a pool, and goes without `base_attends`.

    `reduction`: `flat` lets every pool rank answer the base. `hierarchical` merges the partials of
    a node's pool ranks there first: in decode at the first of them, in a prefill each row at one of
    those that attended for it, so that the base gets it once a node. It goes by messages, and
    without `kv: shared`, where each query is attended whole; some node must have two pool ranks of
    the same heads. The spec's `ranks_per_node` says which ranks these are.
    """

    kind: Literal["fapool"] = "fapool"
    base: Count = 1
    pool: Annotated[int, Field(ge=0, strict=True)] = 0
    threshold: Count = 4096
    lease_ranks: Count | None = None
    base_attends: bool = False
    overlap: Literal["auto", "always", "never"] = "auto"
    kv: Literal["sharded", "shared"] = "sharded"
    reduction: Literal["flat", "hierarchical"] = "flat"

    @property
    def world(self) -> int:
        """Ranks that it takes."""
        return self.base + self.pool

    def __str__(self) -> str:
        options = ["joint"] * self.base_attends
        options += [o for o in (self.kv, self.reduction) if o in ("shared", "hierarchical")]
        return " ".join([f"FAPool({self.base},{self.pool})", *options])


class Rehearsal(FAPool):
    """A `FAPool` whose base attends as the check before a run plays it where nothing is decoded.

    Until a prompt has `opening` KV blocks they are the pool's alone, instead of until base and pool
    have as much to do; what comes after is dealt as in the run. No text of a spec gives one.
    """

    opening: Annotated[int, Field(ge=0, strict=True)]


class Helix(Strict):
    """Keys by sequence, the rest by heads, on the same ranks (Helix parallelism).

    In attention a rank holds the heads of one of `tp` slices and a 1/`kvp` share of every request's
    KV blocks; one exchange of partials gives it 1/`kvp` of its heads over all keys. Everything else
    is tensor parallel over all `kvp` x `tp` ranks.
    """

    kind: Literal["helix"] = "helix"
    kvp: Count = 1
    tp: Count = 1

    @property
    def world(self) -> int:
        """Ranks that it takes."""
        return self.kvp * self.tp

    def __str__(self) -> str:
        return f"Helix({self.kvp},{self.tp})"


Plan = Annotated[Static | FAPool | Helix, Field(discriminator="kind")]


def check_layout(
    model: Model, plan: Static | FAPool | Helix, ranks_per_node: int | None = None
) -> None:
    """Refuse a plan whose slices do not come out even, or whose nodes have nothing to merge.

    `ranks_per_node`: None for all on one node.

    Raises:
        SpecError: names the field of the plan and the sizes that would do.
    """
    field, tp = ("plan.base", plan.base) if isinstance(plan, FAPool) else ("plan.tp", plan.tp)
    for name in ("heads", "ffn"):
        if getattr(model, name) % tp:
            raise SpecError(field, tp, f"choose a divisor of model.{name} = {getattr(model, name)}")
    if model.kv_heads % tp and tp % model.kv_heads:
        raise SpecError(
            field, tp, f"choose a divisor or a multiple of model.kv_heads = {model.kv_heads}"
        )
    if isinstance(plan, Helix):
        _check_shares(model, plan)
    if model.vocab < tp:
        raise SpecError("model.vocab", model.vocab, f"at least {field} = {tp}: ranks share it out")
    if isinstance(plan, Static) and plan.pp > model.layers:
        raise SpecError("plan.pp", plan.pp, f"at most model.layers = {model.layers} stages")
    if isinstance(plan, FAPool):
        _check_lending(model, plan)
        _check_merging(model, plan, ranks_per_node or plan.world)


def _check_lending(model: Model, plan: FAPool) -> None:
    """What is said of leases is said of a pool that there is."""
    groups = gcd(plan.base, plan.pool, model.kv_heads) if plan.pool else 1
    columns = max(plan.pool // groups, 1)
    if plan.lease_ranks and plan.lease_ranks > columns:
        by_heads = f", {groups} by heads" if groups > 1 else ""
        way_out = f"at most {columns} shards: plan.pool = {plan.pool} ranks{by_heads}"
        raise SpecError("plan.lease_ranks", plan.lease_ranks, way_out)
    shared, merges = plan.kv == "shared", plan.reduction == "hierarchical"
    options = {"base_attends": plan.base_attends, "kv": shared, "reduction": merges}
    for name, is_given in options.items():
        if is_given and not plan.pool:
            way_out = "give plan.pool at least 1, or leave it out"
            raise SpecError(f"plan.{name}", getattr(plan, name), way_out)
    if shared and merges:
        way_out = "with plan.kv = shared each query is attended whole: choose flat"
        raise SpecError("plan.reduction", plan.reduction, way_out)
    if shared and plan.base_attends:
        raise SpecError(
            "plan.kv",
            plan.kv,
            "the base would keep all keys, too: choose sharded, or leave out plan.base_attends",
        )


def _check_merging(model: Model, plan: FAPool, per_node: int) -> None:
    """Partials are merged among the pool ranks of a node that attend for the same heads."""
    if plan.reduction != "hierarchical":
        return
    groups = gcd(plan.base, plan.pool, model.kv_heads)  # those of the same heads are as far apart
    firsts = range(plan.base, plan.world - groups)
    if any(rank // per_node == (rank + groups) // per_node for rank in firsts):
        return
    alone = f"its {plan.pool} pool ranks share out {groups} groups of heads"
    if plan.pool > groups:
        alone = f"no node of ranks_per_node = {per_node} has two pool ranks of the same heads"
    elif groups == 1:
        alone = "its pool has one rank"
    way_out = f"nothing to merge, {alone}: choose flat"
    raise SpecError("plan.reduction", plan.reduction, way_out)


def _check_shares(model: Model, plan: Helix) -> None:
    """What all ranks of a Helix share out, beyond what its tp slices do."""
    for name in ("heads", "ffn"):
        size = getattr(model, name)
        if size % plan.world:
            raise SpecError(
                "plan.kvp",
                plan.kvp,
                f"its {plan.world} ranks share out model.{name} = {size}: choose kvp "
                "and tp whose product divides it",
            )
    if model.vocab < plan.world:
        raise SpecError(
            "model.vocab", model.vocab, f"at least kvp x tp = {plan.world}: ranks share it out"
        )
