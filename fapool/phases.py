"""The vocabulary of every table: phases, their categories, columns and units.

A phase is what a span of time was spent on. Its category is declared here, once, and never
guessed from a kernel's name. Waits are declared as communication; the analysis gives the part
before the last participant's arrival to synchronization (design: the breakdown).
"""

from __future__ import annotations

from enum import StrEnum

import pyarrow as pa


class Category(StrEnum):
    """The five disjoint parts of a rank's wall time, in order of priority."""

    COMPUTE = "compute"
    COMMUNICATION = "communication"
    SYNCHRONIZATION = "synchronization"
    MANAGEMENT = "management"
    IDLE = "idle"


class Role(StrEnum):
    """What a rank is for: it holds the model, or it attends for those that do."""

    BASE = "base"
    POOL = "pool"


class Phase(StrEnum):
    """What a span of time was spent on; `category` says what it counts as."""

    category: Category

    def __new__(cls, value: str, category: Category) -> Phase:
        member = str.__new__(cls, value)
        member._value_ = value
        member.category = category
        return member

    EMBED = "embed", Category.COMPUTE
    PROJECT = "project", Category.COMPUTE
    APPEND_KV = "append_kv", Category.COMPUTE
    ATTEND = "attend", Category.COMPUTE
    ATTEND_PARTIAL = "attend_partial", Category.COMPUTE
    PACK = "pack", Category.COMPUTE
    MERGE = "merge", Category.COMPUTE
    OUTPUT = "output", Category.COMPUTE
    FFN = "ffn", Category.COMPUTE
    LOGITS = "logits", Category.COMPUTE

    ALL_REDUCE = "all_reduce", Category.COMMUNICATION
    ALL_TO_ALL = "all_to_all", Category.COMMUNICATION
    GATHER_TOKENS = "gather_tokens", Category.COMMUNICATION
    SEND_QUERY = "send_query", Category.COMMUNICATION
    WAIT_QUERY = "wait_query", Category.COMMUNICATION
    SEND_PARTIALS = "send_partials", Category.COMMUNICATION
    WAIT_PARTIALS = "wait_partials", Category.COMMUNICATION
    SEND_HIDDEN = "send_hidden", Category.COMMUNICATION
    WAIT_HIDDEN = "wait_hidden", Category.COMMUNICATION
    SEND_TOKENS = "send_tokens", Category.COMMUNICATION
    WAIT_TOKENS = "wait_tokens", Category.COMMUNICATION
    SEND_KV = "send_kv", Category.COMMUNICATION
    WAIT_KV = "wait_kv", Category.COMMUNICATION
    POST = "post", Category.COMMUNICATION  # a receive, ahead of its wait
    DRAIN = "drain", Category.COMMUNICATION  # until what was sent is taken

    STEP_BARRIER = "step_barrier", Category.SYNCHRONIZATION
    DEVICE_SYNC = "device_sync", Category.SYNCHRONIZATION

    LEASE = "lease", Category.MANAGEMENT
    PLAN_STEP = "plan_step", Category.MANAGEMENT
    OBSERVE = "observe", Category.MANAGEMENT  # what measuring takes between two steps


class Owner(StrEnum):
    """Who holds a byte of a rank's memory."""

    WEIGHTS = "weights"
    KV = "kv"  # reserved for the cache, whether or not a token lies in it
    KV_USED = "kv_used"  # the part of KV that holds tokens; not added to the sum
    ACTIVATIONS = "activations"  # highest transient use of one step
    BUFFERS = "buffers"  # messages and memory of the exchange, what CUDA graphs return
    ALLOCATOR = "allocator"  # what torch's allocator has reserved; absent on CPU
    DEVICE = "device"  # in use on the whole device; on CPU, this process


def _table(**columns: pa.DataType) -> pa.Schema:
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in columns.items()])


_I32, _I64, _STR = pa.int32(), pa.int64(), pa.string()

EVENTS = _table(
    repeat=_I32,  # which repetition of the workload, from 0; warm-ups are not kept
    rank=_I32,
    step=_I32,
    phase=_STR,
    category=_STR,
    layer=_I32,  # -1: belongs to no layer
    micro_batch=_I32,
    start_ns=_I64,  # nanoseconds since the Unix epoch, on rank 0's clock
    end_ns=_I64,
    channel=_STR,  # "0>2" from rank 0 to rank 2, "0+1" a group's collective, "" none
    sequence=_I64,  # the same for all spans of one exchange on one channel; -1 none
    bytes=_I64,  # payload of the exchange seen from this rank
)
"""One span. `(repeat, channel, sequence)` joins the spans of one exchange across ranks."""

STEPS = _table(
    repeat=_I32,
    rank=_I32,
    step=_I32,
    role=_STR,
    kind=_STR,  # "prefill", "decode"
    start_ns=_I64,  # consecutive steps of a rank and repeat share their border: no gap
    end_ns=_I64,
    requests=_I32,  # requests in the step
    tokens=_I32,  # query tokens in the step
    leased=_I32,  # on a pool rank, requests that it serves; on a base rank, requests leased out
    kv_tokens=_I64,  # tokens whose keys this rank holds at the end of the step
    method=_STR,  # of its spans: "host clock", "cuda events", "graph events"; "none" without
)
"""One step of one rank."""

REQUESTS = _table(
    repeat=_I32,
    request=_I32,
    context=_I32,  # prompt tokens, after the length scale
    output=_I32,  # generated tokens
    admitted_ns=_I64,
    first_token_ns=_I64,
    last_token_ns=_I64,
    leased_at=_I32,  # tokens it had when its lease was granted; -1 never
)
"""One request that finished."""

MEMORY = _table(
    repeat=_I32,
    rank=_I32,
    step=_I32,
    time_ns=_I64,
    owner=_STR,
    bytes=_I64,
)
"""One reading of one owner's bytes on one rank."""

KV = _table(
    repeat=_I32,
    rank=_I32,
    step=_I32,  # at its end; the next one begins with somebody coming, going or moving
    request=_I32,
    blocks=_I32,  # reserved for it on this rank
    tokens=_I32,  # of it that lie here; they only grow up to this step
    last_tokens=_I32,  # of them in the last block that has any
    bytes=_I64,  # of their keys and values
)
"""What one request has in one rank's cache: rows of a step sum to its `kv_tokens`."""

ENERGY = _table(
    repeat=_I32,
    rank=_I32,
    device=_STR,  # UUID: several ranks may share one
    begin_ns=_I64,
    end_ns=_I64,
    millijoules=_I64,  # the whole device's, idle power and other processes included
    method=_STR,  # "counter", "power, integrated"
)
"""What one rank's device took in one repeat; no row where nothing tells."""

NO_SPANS = "none"
"""`steps.method` of a step without spans."""

WARM_UP = -1
"""Repeat number of steps that are not kept."""

TRACED = -2
"""`repeat` of the steps that torch.profiler traced, in tables of their own."""

REPLAY = "replay"
"""Phase and category of the range that a trace has around the replay of a graph: no span's."""

PER_STEP = 1 << 20
"""More exchanges than one graph holds on a channel."""


def replayed_sequence(step: int, sequence: int) -> int:
    """The number that an exchange of a graph bears in the replay of one step, on all ranks.

    `sequence`: the one that it has in the graph, of its capture, alike in every replay.
    """
    return step * PER_STEP + sequence % PER_STEP


TABLES = {
    "events": EVENTS,
    "steps": STEPS,
    "requests": REQUESTS,
    "memory": MEMORY,
    "kv": KV,
    "energy": ENERGY,
}
"""File stem in a run folder -> schema."""

TRACED_TABLES = {"traced_events": EVENTS, "traced_steps": STEPS}
"""What live spans say of the steps that a profiler traced: there if any were."""

SCHEMAS = TABLES | TRACED_TABLES
