"""One query per row over keys in blocks, cut into items: the partial of every item.

    shapes:  B rows, H heads, K KV heads, G = H / K, D dim, P tokens of a block, W table's width,
             I items, N tokens of a tile, M = G padded to what a matrix instruction takes

A program attends one item for the G query heads of one KV head: the tensor cores multiply them
with a tile of keys, then the weights with the tile's values. That G is padded costs nothing: the
keys come from memory ten times slower than they are multiplied.

Scores are kept in base 2. LOWEST stands for -inf where the maximum of no key is subtracted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from fapool.runtime.kernels.splits import SplitPlan, capacity, plan_splits

LOWEST = tl.constexpr(-1e30)
LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def _blocks(table, at, token, end, P: tl.constexpr, WHOLE: tl.constexpr):
    """Blocks of a tile's tokens: one where no tile crosses a block's border, else one each."""
    if WHOLE:
        return tl.load(table + tl.minimum(at, end - 1) // P).to(tl.int64)
    else:
        return tl.load(table + tl.minimum(at + token, end - 1) // P).to(tl.int64)


@triton.jit
def _cells(block, at, token, P: tl.constexpr, STEP: tl.constexpr, WHOLE: tl.constexpr):
    """Where the tile's tokens lie, in elements; STEP is the distance of two tokens of a block."""
    if WHOLE:
        return (block * P + at % P) * STEP + token * STEP
    else:
        return (block * P + (at + token) % P) * STEP


@triton.jit
def _attend(
    q, KEYS, VALUES, table, begin, end, inside, scale, D: tl.constexpr, P: tl.constexpr,
    STEP: tl.constexpr, M: tl.constexpr, N: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """q [M, D] over tokens [begin, end) of a row: maximum [M], sum of weights [M], values [M, D].

    The next tile's block is read one tile ahead, outside the compiler's pipeline: inside, the
    keys would wait for it.
    """
    token = tl.arange(0, N)
    top = tl.full([M], LOWEST, tl.float32)
    total = tl.zeros([M], tl.float32)
    acc = tl.zeros([M, D], tl.float32)
    block = _blocks(table, begin, token, end, P, WHOLE)
    for at in range(begin, end, N):
        cells = _cells(block, at, token, P, STEP, WHOLE)[:, None] + inside[None, :]
        block = _blocks(table, at + N, token, end, P, WHOLE)
        seen = at + token < end
        keys = tl.load(KEYS + cells, mask=seen[:, None], other=0.0)
        scores = tl.dot(q, tl.trans(keys), input_precision="ieee") * (scale * LOG2E)
        scores = tl.where(seen[None, :], scores, float("-inf"))
        high = tl.maximum(top, tl.max(scores, axis=1))
        kept = tl.exp2(top - high)
        weight = tl.exp2(scores - high[:, None])
        total = total * kept + tl.sum(weight, axis=1)
        values = tl.load(VALUES + cells, mask=seen[:, None], other=0.0)
        acc = acc * kept[:, None]
        acc = tl.dot(weight.to(values.dtype), values, acc, input_precision="ieee")
        top = high
    return top, total, acc


@triton.jit(
    do_not_specialize=["width", "q_row", "q_head"],
    do_not_specialize_on_alignment=["TABLE", "ROW", "START", "STOP"],
)
def _decode(
    Q, KEYS, VALUES, TABLE, ROW, START, STOP, OUT, LSE, q_row, q_head, width, scale,
    H: tl.constexpr, K: tl.constexpr, D: tl.constexpr, P: tl.constexpr, M: tl.constexpr,
    N: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    item = tl.program_id(1)
    begin, end = tl.load(START + item), tl.load(STOP + item)
    if begin >= end:
        return
    row = tl.load(ROW + item).to(tl.int64)
    m, dim = tl.arange(0, M), tl.arange(0, D)
    head, mine = tl.program_id(0) * (H // K) + m, (m < H // K)[:, None]
    q = tl.load(Q + row * q_row + head[:, None] * q_head + dim[None, :], mask=mine, other=0.0)
    inside = tl.program_id(0) * D + dim
    table = TABLE + row * width
    top, total, acc = _attend(
        q, KEYS, VALUES, table, begin, end, inside, scale, D, P, K * D, M, N, WHOLE
    )
    at = item.to(tl.int64) * H + head
    tl.store(OUT + at[:, None] * D + dim[None, :], acc / total[:, None], mask=mine)
    tl.store(LSE + at, (top + tl.log2(total)) * LN2, mask=m < H // K)


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """How the kernel is built for a device."""

    tile: int  # tokens that a program takes at once: N
    warps: int
    stages: int  # tiles on their way or in use
    resident: int  # programs that a multiprocessor runs at once


@dataclass(frozen=True, kw_only=True)
class Decode:
    """The kernel for one shape of heads on one device; `plan_splits` takes heads, slots and tile.

    num_heads, kv_heads, dim: H, K, D; processors: multiprocessors of the device.
    """

    tuning: Tuning
    num_heads: int
    kv_heads: int
    dim: int
    processors: int

    @property
    def heads(self) -> int:
        """Programs of an item."""
        return self.kv_heads

    @property
    def slots(self) -> int:
        """Programs that the device runs at once."""
        return self.processors * self.tuning.resident

    @property
    def tile(self) -> int:
        """Tokens that a program takes at once; items start at multiples of it."""
        return self.tuning.tile

    def capacity(self, rows: int) -> int:
        """Items that a fixed shape of `rows` rows has to offer: I."""
        return capacity(rows, heads=self.heads, slots=self.slots)

    def plan(self, lengths: Sequence[int], *, capacity: int) -> SplitPlan:
        """Items of rows of `lengths` tokens, on the host: see `plan_splits`."""
        return plan_splits(
            lengths,
            heads=self.heads,
            slots=self.slots,
            tile=self.tile,
            capacity=capacity,
            resident=self.tuning.resident,
        )

    @property
    def padded(self) -> int:
        """Query heads of a program, padded: M."""
        return max(16, triton.next_power_of_2(self.num_heads // self.kv_heads))

    def __call__(
        self,
        q: Tensor,
        pages: tuple[Tensor, Tensor],
        table: Tensor,
        items: SplitPlan,
        out: Tensor,
        lse: Tensor,
    ) -> None:
        """Attend every item; `items` lie on the device, and unused ones are left as they are.

        q [B, H, D], any strides but the last; pages: keys and values [N, P, K, D], contiguous;
        table [B, W] int32 -> out [I, H, D], lse [I, H], both fp32.
        """
        tokens = pages[0].shape[1]
        _decode[(self.heads, items.num_items)](
            q, *pages, table, items.row, items.start, items.stop, out, lse,
            q.stride(0), q.stride(1), table.stride(0), self.dim**-0.5,
            H=self.num_heads, K=self.kv_heads, D=self.dim, P=tokens, M=self.padded,
            N=self.tile, WHOLE=tokens % self.tile == 0,
            num_warps=self.tuning.warps, num_stages=self.tuning.stages,
        )  # fmt: skip


def tuning(*, group: int, token_bytes: int, hopper: bool) -> Tuning:
    """The fastest found for G query heads per KV head, and D elements of `token_bytes`.

    Measured at 256 bytes on an H200 (benchmarks/kernels.py). A100 has 164 KB of shared memory for
    227, and spills where 128 tokens meet 32 query heads: it takes 64 for all.
    """
    large = hopper and 1 < group <= 32
    tile = max(16, (128 if large else 64) * 256 // max(256, token_bytes))
    resident = 1 if large or group > 32 else 3 if hopper else 2
    return Tuning(tile=tile, warps=4 if group <= 32 else 8, stages=3, resident=resident)


def decode(
    *, num_heads: int, kv_heads: int, dim: int, dtype: torch.dtype, device: torch.device
) -> Decode:
    """The kernel for H query heads and K KV heads of D elements there."""
    cuda = device.type == "cuda"
    found = torch.cuda.get_device_properties(device) if cuda else None
    return Decode(
        tuning=tuning(
            group=num_heads // kv_heads,
            token_bytes=dim * dtype.itemsize,
            hopper=found is not None and found.major >= 9,
        ),
        num_heads=num_heads,
        kv_heads=kv_heads,
        dim=dim,
        processors=found.multi_processor_count if found else INTERPRETED_PROCESSORS,
    )


INTERPRETED_PROCESSORS = 2
