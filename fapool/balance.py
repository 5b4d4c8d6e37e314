"""How much of a leased request's keys the base keeps where it attends as well: arithmetic.

Decode and prefill want different shares, and the blocks of a request are dealt once. In a decode
step all ranks read keys for as long; in a prefill the base has the products to do besides, and as
a prompt grows they weigh less and less beside attention. Decode fixes the deal: its steps repeat,
and who asked for tokens waits in each of them. Prefill fixes it only where nothing is decoded at
all (one token of output).

A decode step is bound by bytes. Done whole, the base multiplies before and after all attend; done
in two halves, it reads its weights twice and the pool never waits for it:

    whole    |weights|  keys: base and pool alike  |
    halves   |weights|weights| keys of the base    |        the base keeps less,
             |          keys of the pool           |        so that both end together
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import gcd

from fapool.pieces import piece_rows
from fapool.spec import Rehearsal, RunSpec, Workload

ATTENTION_COST = 790 / 600
"""Time of an operation of attention over that of one in a product, both at their best (H200)."""

TOKEN_COST = 1.3
"""Time of all that a base does for a token but attend, over that of its products at their best."""

LONGEST_TURN = 16
"""Blocks of a column in one round, at most."""

WORTH = 0.98
"""Half-batches double the launches: they have to take less than this share of the whole step."""


@dataclass(frozen=True, kw_only=True)
class Reads:
    """Bytes that the ranks of a plan read in a decode step, which is bound by them."""

    weights: int  # a base rank, of all its layers
    layers: int
    base: float  # a base rank, for each token whose keys the base keeps
    column: float  # a pool rank, for each token whose keys its column keeps

    def whole(self, kept: float, each: float) -> float:
        """The step at once: `kept` tokens with the base, `each` with every column."""
        return self.weights + max(self.base * kept, self.column * each)

    def halves(self, kept: float, each: float) -> float:
        """The step in two; the first half's first products and the last's last are not hidden."""
        busiest = max(2 * self.weights + self.base * kept, self.column * each)
        return busiest + self.weights / self.layers

    def halved(self, kept: float, each: float) -> bool:
        """Whether two halves take less."""
        return self.halves(kept, each) < WORTH * self.whole(kept, each)


def reads(spec: RunSpec, groups: int) -> Reads:
    """What a spec's ranks read; `groups`: head groups of the pool."""
    model, base = spec.model, spec.plan.base
    kv_heads = max(1, model.kv_heads // base)
    width = (2 * model.heads // base + 2 * kv_heads) * model.head_dim + 2 * model.ffn // base
    return Reads(
        weights=width * model.hidden * model.layers * model.itemsize,
        layers=model.layers,
        base=model.kv_bytes_per_token * kv_heads / model.kv_heads,
        column=model.kv_bytes_per_token / groups,
    )


def decode_weights(spec: RunSpec, columns: int, groups: int) -> tuple[int, int]:
    """(blocks of the base, blocks of each column) in a round, so that decode steps are shortest.

    For a batch of known lengths that is done in halves the base keeps less, else base and columns
    read alike.
    """
    model, read, work = spec.model, reads(spec, groups), spec.workload
    readers = model.kv_heads // max(1, model.kv_heads // spec.plan.base)
    common = gcd(readers, groups)
    alike = readers // common, groups // common
    if not isinstance(work, Workload) or work.batch < 2 or spec.plan.overlap == "never":
        return alike
    tokens = work.batch * (work.context + work.output / 2)
    among = read.column * tokens / columns
    less = max(0.0, (among - 2 * read.weights) / (read.base * tokens + among))
    even = alike[0] / (alike[0] + columns * alike[1])
    split = [(share * tokens, (1 - share) * tokens / columns) for share in (even, less)]
    if read.halves(*split[1]) >= WORTH * min(read.whole(*split[0]), read.halves(*split[0])):
        return alike
    per_column = Fraction(less * columns / (1 - less)).limit_denominator(LONGEST_TURN)
    return per_column.numerator, per_column.denominator


def only_prefills(spec: RunSpec) -> bool:
    """Whether no key is ever read by a decode step."""
    return isinstance(spec.workload, Workload) and spec.workload.output == 1


def prefill_turns(spec: RunSpec, columns: int, pool_ranks: int) -> tuple[int, tuple[int, int]]:
    """(blocks that open a request, all of them the columns'; blocks of the base and of each column
    in the rounds after these), so that a prefill keeps all busy from its first token to its last.

    The base's ranks multiply, and attend every piece over itself and their share over what came
    before; the `pool_ranks` behind the `columns` of a lease attend the rest. For a token that comes
    after n others, of which the base keeps s, that takes (a token's products and its piece p, an
    attended key a, base ranks b, pool ranks r)

        base (p + a s) / b,  pool a (n - s) / r;  alike where s = (a b n - p r) / a (b + r)

    Up to n = r p / (a b) the base has more to do although it keeps nothing: these blocks open the
    request. From there on it keeps b of b + r. A rehearsal has its own opening.
    """
    model, base = spec.model, spec.plan.base
    kv_width, width = model.kv_heads * model.head_dim, model.heads * model.head_dim
    key = 4 * width * ATTENTION_COST
    token = TOKEN_COST * 2 * model.hidden * (2 * width + 2 * kv_width + 2 * model.ffn)
    token += key * piece_rows(spec) / 2
    opening = round(pool_ranks * token / (base * key) / spec.block)
    if isinstance(spec.plan, Rehearsal):
        opening = spec.plan.opening
    common = gcd(base * columns, pool_ranks)
    return opening, (base * columns // common, pool_ranks // common)
