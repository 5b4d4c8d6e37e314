"""How much of a leased request's keys the base keeps where it attends as well: arithmetic.

Decode and prefill want different shares, and the blocks of a request are dealt once. In a decode
step all ranks read keys for as long; in a prefill the base has the products to do besides, and at
128 K under FAPool(1,3) ought to keep a fiftieth instead of a quarter of the keys. Decode fixes the
deal: its steps repeat, and who asked for tokens waits in each of them. Prefill fixes it only where
nothing is decoded at all (one token of output).
"""

from __future__ import annotations

from fractions import Fraction

from fapool.spec import RunSpec, Workload

ATTENTION_COST = 790 / 600
"""Time of an operation of attention over that of one in a product, both at their best (H200)."""

LONGEST_TURN = 16
"""Blocks of a column in one round, at most."""


def only_prefills(spec: RunSpec) -> bool:
    """Whether no key is ever read by a decode step."""
    return isinstance(spec.workload, Workload) and spec.workload.output == 1


def prefill_weights(spec: RunSpec, columns: int, pool_ranks: int) -> tuple[int, int]:
    """(blocks of the base, blocks of each column) in a round, so that a prefill keeps all busy.

    The base's ranks multiply, attend every chunk over itself and their share over what came before;
    the `pool_ranks` behind the `columns` of a lease attend the rest.
    """
    model, length = spec.model, spec.workload.context
    kv_width, width = model.kv_heads * model.head_dim, model.heads * model.head_dim
    products = 2 * length * model.hidden * (2 * width + 2 * kv_width + 2 * model.ffn)
    attention = 2 * length**2 * width * ATTENTION_COST
    chunk = min(1.0, spec.prefill_chunk / length)
    before = attention * (1 - chunk)
    base = spec.plan.base
    share = (base * (products + attention) / (base + pool_ranks)) - products - attention * chunk
    share = min(share / before, 0.99) if before else 0.0
    per_column = Fraction(max(0.0, share * columns / (1 - share))).limit_denominator(LONGEST_TURN)
    return per_column.numerator, per_column.denominator
