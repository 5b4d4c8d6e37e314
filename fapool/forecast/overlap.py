"""When it pays to cut a step in parts, so that base and pool work at the same time."""

from __future__ import annotations

from fapool.balance import reads
from fapool.deals import BASE
from fapool.spec import RunSpec
from fapool.topology import lease_width, lent_deal, pool_mesh

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


class Halving:
    """When the decode steps of a spec are done in two half-batches."""

    def __init__(self, spec: RunSpec) -> None:
        self._how = spec.plan.overlap
        groups, _ = pool_mesh(spec.model, spec.plan)
        self._reads = reads(spec, groups)
        deal = lent_deal(spec, range(lease_width(spec) or 1))
        pattern, self._copied = deal.pattern, deal.copied
        self._kept, self._each = (pattern.count(k) / len(pattern) for k in (BASE, 0))

    def parts(self, rows: int, lent_tokens: int) -> int:
        """1 or 2, for a step of `rows` requests of which those on lease have `lent_tokens` tokens.

        With two, the base multiplies for one while the pool attends for the other.
        """
        if self._how == "never" or rows < 2 or not lent_tokens:
            return 1
        # Who attends for whole requests, of few of them, attends for one.
        share = max(self._each, 1 / rows) if self._copied else self._each
        kept, each = self._kept * lent_tokens, share * lent_tokens
        return 2 if self._how == "always" or self._reads.halved(kept, each) else 1
