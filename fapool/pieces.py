"""Pieces of prefill steps: how large, and how many are under way at once."""

from __future__ import annotations

from fapool.spec import RunSpec

IN_FLIGHT = 4
"""Pieces of prefill steps that are under way at once, at most.

A piece's way is its products on the base, its queries to the pool, its attention there and the
partials back. With base and pool equally busy (of the paper's layer, for 4096 tokens at 790
TFLOP/s, 2.1 ms each) and messages to and from three pool ranks on top (0.5 and 0.3 ms at 345 GB/s),
two pieces leave gaps, three just none; four forgive that they come late.
"""

FEWEST_ROWS, ROWS_ENOUGH = 2048, 4096
"""Tokens of a piece below which the host is not done with its layer before the device is, and from
which on more of them gain nothing.

A layer of a piece takes a base's host 1 to 2 ms, of however many tokens. 128 K of the paper's
4-layer model under FAPool(1,1) with a base that attends, 2 x H100, ms: chunks of 2048 in one piece
941, in two 1139; of 4096 in two 754, in four 1069; of 8192 in two 699, in four 735.
"""


GRAIN = 1024
"""Tokens that kernels attend in a quicker way, and multiples of them: see `CudnnTiled`."""


def piece_rows(spec: RunSpec) -> int:
    """Tokens of a piece of a prefill step in which somebody is leased: the whole chunk, or less."""
    chunk, how = spec.prefill_chunk, spec.plan.overlap
    if how == "never":
        return chunk
    fitting = max(1, min(2, chunk // FEWEST_ROWS), chunk // ROWS_ENOUGH)
    rows = -(-chunk // (IN_FLIGHT if how == "always" else min(IN_FLIGHT, fitting)))
    return rows if rows < GRAIN else -(-rows // GRAIN) * GRAIN
