"""When it pays to cut a step in parts, so that base and pool work at the same time."""

from __future__ import annotations

from functools import lru_cache

from fapool.spec import RunSpec
from fapool.topology import lease_width, lent_deal, place, pool_mesh

IN_FLIGHT = 4
"""Pieces of prefill steps that are under way at once.

A piece's way is its products on the base, its queries to the pool, its attention there and the
partials back. With base and pool equally busy (of the paper's layer, for 4096 tokens at 790
TFLOP/s, 2.1 ms each) and messages to and from three pool ranks on top (0.5 and 0.3 ms at 345 GB/s),
two pieces leave gaps, three just none; four forgive that they come late.
"""

FEWEST_ROWS = 1024
"""Tokens below which a product takes longer by more than its weights are hidden (178 rows at
790 TFLOP/s and 4.45 TB/s read them for as long as they multiply; few tiles fill no wave)."""


def piece_rows(spec: RunSpec) -> int:
    """Tokens of a piece of a prefill step in which somebody is leased: the whole chunk, or less."""
    chunk, how = spec.prefill_chunk, spec.plan.overlap
    if how == "never":
        return chunk
    most = IN_FLIGHT if how == "always" else max(1, chunk // FEWEST_ROWS)
    return -(-chunk // min(IN_FLIGHT, most))


def parts(spec: RunSpec, rows: int, lent_tokens: int) -> int:
    """Half-batches that a decode step of `rows` requests is done in: 1 or 2.

    With two, the base multiplies for one while the pool attends for the other, and the weights are
    read twice. That is hidden where a pool rank reads its share of the `lent_tokens` keys for
    longer than a base rank reads the layers twice.
    """
    if spec.plan.overlap == "never" or rows < 2 or not lent_tokens:
        return 1
    if spec.plan.overlap == "always":
        return 2
    per_token, weights = _read(spec)
    return 2 if lent_tokens * per_token > 2 * weights else 1


@lru_cache(maxsize=64)
def _read(spec: RunSpec) -> tuple[float, int]:
    """Bytes that a pool rank reads per leased token, and a base rank in all its layers."""
    model, at = spec.model, place(spec, 0)
    groups, _ = pool_mesh(model, spec.plan)
    pattern = lent_deal(spec, range(lease_width(spec))).pattern
    share = pattern.count(0) / len(pattern) / groups
    width = (2 * len(at.heads) + 2 * len(at.kv_heads)) * model.head_dim + 2 * len(at.ffn)
    return model.kv_bytes_per_token * share, width * model.hidden * model.layers * model.itemsize
