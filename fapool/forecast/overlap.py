"""When it pays to cut a decode step in halves, so that base and pool work at the same time."""

from __future__ import annotations

from fapool.balance import reads
from fapool.deals import BASE
from fapool.spec import RunSpec
from fapool.topology import lease_width, lent_deal, pool_mesh


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
