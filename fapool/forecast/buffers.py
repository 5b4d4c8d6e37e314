"""Bytes that a rank holds for messages and for its decode steps: bounds, never below what is held.

Shared memory is reserved for the largest step before anything runs; messages are counted while
they are under way; a CUDA graph keeps what it returns, for each of its shapes.
"""

from __future__ import annotations

from fapool.phases import Role
from fapool.pieces import IN_FLIGHT, piece_rows
from fapool.spec import FAPool, Helix, RunSpec, Workload
from fapool.topology import Place, lease_width, lent_deal, place

PROBE_BATCH = 3
"""Requests at once in the check before a run."""

PROBE_BLOCKS = 2
"""KV blocks of tokens in a prefill step of it."""

LINKS = 2
"""Of a pooled plan: one a half-batch."""

SUM_BYTES = 8 * 2**20
"""Memory at a rank for sums over its peers by kernels, however many they are."""

FLAG_BYTES = 512  # of one sender, in a link's memory
ALIGNED = 1024  # what aligning the pieces of a message may add
TOKEN_BYTES = 8

Handed = tuple[int, int]
"""Most tokens of keys that leave the base in one step, and with one request."""


def most_rows(spec: RunSpec) -> int:
    """Rows of the largest decode step, of the check's too."""
    return max(spec.workload.batch, PROBE_BATCH)


def buffer_bytes(spec: RunSpec, at: Place, handed: Handed) -> int:
    """Most that the rank at `at` holds of `Owner.BUFFERS`; `handed`: see `memory.handed_over`."""
    held = _sums(spec, at) + _kept_by_graphs(spec, at)
    if at.partners:
        held += LINKS * _link(spec, at) + lane_bytes(spec, at) + _moved(spec, at, handed)
    if len(at.kv_peers) > 1:
        held += _shards(spec, at)
    return held + _stages(spec, at)


def _item(spec: RunSpec) -> tuple[int, int]:
    """Bytes of a value, and of the log-sum-exp beside it."""
    return spec.model.itemsize, max(4, spec.model.itemsize)


def _shared(spec: RunSpec) -> bool:
    """Whether ranks may store into each other's memory."""
    return spec.transport != "messages" and spec.device != "cpu" and spec.model.dtype != "float64"


def _asked(spec: RunSpec, at: Place) -> int:
    """Bytes of a row's query with its new keys."""
    heads = len(at.heads) + 2 * len(at.kv_heads)
    return heads * spec.model.head_dim * spec.model.itemsize


def _answered(spec: RunSpec, at: Place) -> int:
    """Bytes of a row's partial."""
    item, lse = _item(spec)
    return len(at.heads) * (spec.model.head_dim * item + lse)


def _link(spec: RunSpec, at: Place) -> int:
    """A link's buffers; shared memory is as large everywhere as any rank needs it."""
    rows, ends = most_rows(spec), len(at.partners)
    asks = _asked(spec, at)  # a base sends one message to all, a pool rank has one of each
    answers = _answered(spec, at) * (ends if at.role is Role.BASE else 1)
    held = rows * (asks + answers)
    if at.role is Role.POOL and len(at.team) > 1:  # the first has a partial of every other
        held += rows * _answered(spec, at) * (len(at.team) - 1)
    if not _shared(spec):
        return held
    base = at if at.role is Role.BASE else place(spec, at.partners[0])
    pool = at if at.role is Role.POOL else place(spec, at.partners[0])
    room = max(_asked(spec, pool), len(base.partners) * _answered(spec, base))
    return max(held, rows * room + FLAG_BYTES * at.world + ALIGNED)


def lane_bytes(spec: RunSpec, at: Place) -> int:
    """Queries and answers of the pieces of a prefill that are under way, or memory for them.

    A base holds both of every piece: a piece's queries go to all columns, its keys to one each or
    to all. A pool rank keeps its answers until their slot is asked again, while the queries of two
    pieces at most are there: those that it attends, and those that are announced meanwhile.
    """
    base = at if at.role is Role.BASE else place(spec, at.partners[0])
    asks, answers = _asked(spec, base), _answered(spec, base)
    rows = piece_rows(spec)
    pieces = min(IN_FLIGHT, -(-spec.prefill_chunk // rows))
    if at.role is Role.BASE:
        keys = 2 * len(base.kv_heads) * spec.model.head_dim * spec.model.itemsize
        copies = len(at.partners) if spec.plan.kv == "shared" else 1
        asked = len(at.partners) * (asks - keys) + copies * keys
        held = pieces * rows * (asked + len(at.teams) * answers)
    else:
        held = rows * len(at.partners) * (min(2, pieces) * asks + pieces * answers)
    if at.role is Role.POOL and len(at.team) > 1:  # what is given to mates, and comes from them
        held += 2 * rows * _answered(spec, at)
    if not _shared(spec):
        return held
    pool = at if at.role is Role.POOL else place(spec, at.partners[0])
    most = max(len(base.partners), len(pool.partners))
    rows = max(rows, PROBE_BLOCKS * spec.block)
    slots = 1 if spec.plan.overlap == "never" else IN_FLIGHT
    return max(held, slots * most * (rows * max(asks, answers) + ALIGNED))


def _moved(spec: RunSpec, at: Place, handed: Handed) -> int:
    """Keys on their way: a base keeps all that leave in a step, a pool rank those of one lease."""
    token = 2 * len(at.layers) * len(at.kv_heads) * spec.model.head_dim * spec.model.itemsize
    together, single = handed
    if at.role is Role.BASE:
        return together * token * (lease_width(spec) if spec.plan.kv == "shared" else 1)
    deal = lent_deal(spec, range(lease_width(spec)))
    blocks = -(-single // spec.block)
    return max(deal.blocks(blocks, keeper) for keeper in deal.keepers) * spec.block * token


def _stages(spec: RunSpec, at: Place) -> int:
    """Hidden states that pass between stages, tokens on their way back, states that frames keep."""
    neighbours = sum(rank is not None for rank in (at.previous, at.next))
    if not neighbours:
        return 0
    batch, width = spec.workload.batch, spec.model.hidden * spec.model.itemsize
    passing = max(spec.prefill_chunk, batch) * width
    return neighbours * passing + _frame_rows(spec) * width + 2 * batch * TOKEN_BYTES


def _sums(spec: RunSpec, at: Place) -> int:
    """Memory for sums; that of the base ranks is shared by the whole of a pooled plan."""
    several = spec.plan.base > 1 if isinstance(spec.plan, FAPool) else len(at.tp_peers) > 1
    return SUM_BYTES if several and _shared(spec) else 0


def _shards(spec: RunSpec, at: Place) -> int:
    """Partials among the ranks that share keys: messages there and back, or memory for them."""
    tokens, ranks = max(spec.prefill_chunk, most_rows(spec)), len(at.kv_peers)
    held = 2 * tokens * _answered(spec, at)
    if not _shared(spec):
        return held
    part = most_rows(spec) * _answered(spec, at) // ranks
    return held + 3 * (ranks - 1) * part + FLAG_BYTES * ranks + ALIGNED


def _frame_rows(spec: RunSpec) -> int:
    """Rows of all buckets of a decode step: equal requests have one bucket alone."""
    batch = spec.workload.batch
    return batch if isinstance(spec.workload, Workload) else 3 * batch


def _kept_by_graphs(spec: RunSpec, at: Place) -> int:
    """What graphs return and keep: logits and tokens, or hidden states; each has a twin."""
    if not spec.graphs or spec.device == "cpu" or at.role is Role.POOL:
        return 0
    model = spec.model
    width = len(at.vocab) * max(4, model.itemsize) + TOKEN_BYTES
    if not at.is_last:
        width = model.hidden * model.itemsize
    return 2 * _shapes(spec) * _frame_rows(spec) * width


def _shapes(spec: RunSpec) -> int:
    """Shapes in which a bucket comes, halves counted as two of its size.

    Nobody, some or all of a batch may be on lease, and where some are it may be done in halves.
    """
    plan = spec.plan
    if isinstance(plan, FAPool):
        return 7 if plan.pool else 1
    return 1 if isinstance(plan, Helix) else plan.micro_batches or plan.pp
