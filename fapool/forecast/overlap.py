"""When it pays to cut a decode step in two, so that base and pool work at the same time."""

from __future__ import annotations

from functools import lru_cache

from fapool.spec import RunSpec
from fapool.topology import lease_width, lent_deal, place, pool_mesh


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
