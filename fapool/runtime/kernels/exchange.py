"""One kernel each for ask, queries, answer and collect, over memory that peers have mapped.

    shapes:  B rows, H heads of a base rank, Hg heads and Kg KV heads of a head group, D head dim,
             n columns, N blocks, P tokens of a block, E ends of a link

Every CTA of a sender has a flag word of its own at the receiver, so that senders count nothing and
receivers wait for a number of words that both sides know from B. `number` of a message: the epoch
(a counter that advances by the layers of a step) + layer + 1.

One set of buffers is enough. A base rank asks for layer l + 1 after it merged layer l: then every
column had answered, after it had read q, k and v. A column answers l + 1 after all its bases had
asked l + 1, after they had read its answer to l. Kernels of one stream run one after the other,
which carries this order within a rank, from step to step, too.
"""

from __future__ import annotations

import triton
import triton.language as tl

from fapool.runtime.kernels.signals import SENDERS, raise_flag, stamp, wait_for

UNSPECIALIZED = ("layer", "rows", "width", "limit")


@triton.jit
def put_heads(
    source, row_stride, head_stride, target, rows, TARGET_HEADS, HEADS, DIM, TILE, column, owner
):
    """source [rows, HEADS, DIM] to its place in target [rows, TARGET_HEADS, DIM], by all CTAs.

    Where there is an `owner`, only rows of `column`.
    """
    BLOCK: tl.constexpr = triton.next_power_of_2(DIM)
    lane = tl.arange(0, BLOCK)[None, :]
    step = tl.num_programs(0) * TILE
    for start in range(tl.program_id(0) * TILE, rows * HEADS, step):
        item = start + tl.arange(0, TILE)[:, None]
        row, head = item // HEADS, item % HEADS
        there = item < rows * HEADS
        if owner is not None:
            there &= tl.load(owner + row, mask=there, other=-1) == column
        if BLOCK != DIM:
            there = there & (lane < DIM)
        x = tl.load(source + row.to(tl.int64) * row_stride + head * head_stride + lane, mask=there)
        at = (row.to(tl.int64) * TARGET_HEADS + head) * DIM + lane
        tl.store(target + at, x.to(target.dtype.element_ty), mask=there)


@triton.jit(do_not_specialize=UNSPECIALIZED)
def ask(
    q, k, v, owner, routes, epoch, stamps, layer, rows,
    q_row, q_head, k_row, k_head, v_row, v_head,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr,
    GROUP_HEADS: tl.constexpr, GROUP_KV_HEADS: tl.constexpr,
    DIM: tl.constexpr, TILE: tl.constexpr, STAMPED: tl.constexpr,
):  # fmt: skip
    """q, k, v into every pool rank's buffers; grid (CTAs of a piece, E, 3 pieces).

    `routes` [E, 4]: addresses of the flags and of this base's first head in q, k and v there.
    """
    stamp(stamps, layer * 6, STAMPED)
    end, piece = tl.program_id(1), tl.program_id(2)
    route = routes + 4 * end
    flags = tl.load(route).to(tl.pointer_type(tl.int32))
    target = tl.load(route + 1 + piece).to(tl.pointer_type(q.dtype.element_ty))
    target = tl.multiple_of(target, 16)
    number = tl.load(epoch) + layer + 1
    if piece == 0:
        put_heads(q, q_row, q_head, target, rows, GROUP_HEADS, HEADS, DIM, TILE, end, None)
    elif KV_HEADS > 0:
        if piece == 1:
            put_heads(
                k, k_row, k_head, target, rows, GROUP_KV_HEADS, KV_HEADS, DIM, TILE, end, owner
            )
        else:
            put_heads(
                v, v_row, v_head, target, rows, GROUP_KV_HEADS, KV_HEADS, DIM, TILE, end, owner
            )
    raise_flag(flags + piece * SENDERS + tl.program_id(0), number)
    stamp(stamps, layer * 6 + 2, STAMPED)


@triton.jit(do_not_specialize=UNSPECIALIZED)
def queries(
    flags, k, v, k_pages, v_pages, slots, epoch, stamps, layer, rows, width, limit,
    ENDS: tl.constexpr, KV_HEADS: tl.constexpr, DIM: tl.constexpr, TILE: tl.constexpr,
    APPENDS: tl.constexpr, STAMPED: tl.constexpr,
):  # fmt: skip
    """Wait for every base; write new k and v [B, Kg, D] to their slots of the pages, if any."""
    stamp(stamps, layer * 6, STAMPED)
    wait_for(flags, tl.load(epoch) + layer + 1, width, limit, ENDS, 3)
    stamp(stamps, layer * 6 + 1, STAMPED)
    if APPENDS:
        BLOCK: tl.constexpr = triton.next_power_of_2(DIM)
        lane = tl.arange(0, BLOCK)[None, :]
        step = tl.num_programs(0) * TILE
        for start in range(tl.program_id(0) * TILE, rows * KV_HEADS, step):
            item = start + tl.arange(0, TILE)[:, None]
            row, head = item // KV_HEADS, item % KV_HEADS
            slot = tl.load(slots + row, mask=item < rows * KV_HEADS, other=-1).to(tl.int64)
            there = slot >= 0
            if BLOCK != DIM:
                there = there & (lane < DIM)
            at, to = item * DIM + lane, (slot * KV_HEADS + head) * DIM + lane
            new_k, new_v = tl.load(k + at, mask=there), tl.load(v + at, mask=there)
            tl.store(k_pages + to, new_k, mask=there)
            tl.store(v_pages + to, new_v, mask=there)
    stamp(stamps, layer * 6 + 2, STAMPED)


@triton.jit(do_not_specialize=UNSPECIALIZED)
def answer(
    out, lse, routes, epoch, stamps, layer, rows,
    out_row, out_head, lse_row, lse_head,
    HEADS: tl.constexpr, DIM: tl.constexpr, TILE: tl.constexpr, WIRE: tl.constexpr,
    STAMPED: tl.constexpr,
):  # fmt: skip
    """out, lse into every base rank's buffers; grid (CTAs, E).

    `routes` [E, 4]: addresses of flags, out and lse of this column there; first head of the base.
    """
    stamp(stamps, layer * 6 + 3, STAMPED)
    route = routes + 4 * tl.program_id(1)
    flags = tl.load(route).to(tl.pointer_type(tl.int32))
    to_out = tl.multiple_of(tl.load(route + 1).to(tl.pointer_type(WIRE)), 16)
    to_lse = tl.load(route + 2).to(tl.pointer_type(tl.float32))
    first = tl.load(route + 3)
    number = tl.load(epoch) + layer + 1
    out += first * out_head
    step = tl.num_programs(0) * TILE
    for start in range(tl.program_id(0) * TILE, rows * HEADS, step):
        item = start + tl.arange(0, TILE)
        row, head = item // HEADS, item % HEADS
        at = row.to(tl.int64) * lse_row + (first + head) * lse_head
        tl.store(to_lse + item, tl.load(lse + at, mask=item < rows * HEADS), item < rows * HEADS)
    put_heads(out, out_row, out_head, to_out, rows, HEADS, HEADS, DIM, TILE, 0, None)
    raise_flag(flags + tl.program_id(0), number)
    stamp(stamps, layer * 6 + 5, STAMPED)


@triton.jit
def load_part(out, lse, item, there, out_at, lse_at, DIM: tl.constexpr):
    """A tile of a partial: out [TILE, BLOCK] fp32, lse [TILE]."""
    BLOCK: tl.constexpr = triton.next_power_of_2(DIM)
    lane = tl.arange(0, BLOCK)[None, :]
    seen = there[:, None]
    if BLOCK != DIM:
        seen = seen & (lane < DIM)
    values = tl.load(out + out_at[:, None] + lane, mask=seen, other=0.0)
    return values.to(tl.float32), tl.load(lse + lse_at, mask=there, other=float("-inf"))


@triton.jit(do_not_specialize=UNSPECIALIZED)
def collect(
    flags, out, lse, own_out, own_lse, merged, epoch, stamps, layer, rows, width, limit,
    own_row, own_head, own_lse_row, own_lse_head,
    COLUMNS: tl.constexpr, COLUMN: tl.constexpr, HEADS: tl.constexpr, DIM: tl.constexpr,
    TILE: tl.constexpr, OWN: tl.constexpr, STAMPED: tl.constexpr,
):  # fmt: skip
    """Wait for every column, merge out [n, COLUMN, D] by lse [n, COLUMN] (rows * heads first).

    A running merge whose shift is finite: exp(-inf - 0) = 0, so that empty parts add nothing.
    """
    stamp(stamps, layer * 6 + 3, STAMPED)
    wait_for(flags, tl.load(epoch) + layer + 1, width, limit, COLUMNS, 1)
    stamp(stamps, layer * 6 + 4, STAMPED)
    BLOCK: tl.constexpr = triton.next_power_of_2(DIM)
    item = tl.program_id(0) * TILE + tl.arange(0, TILE)
    there = item < rows * HEADS
    at = item.to(tl.int64)
    top, total = tl.full([TILE], float("-inf"), tl.float32), tl.zeros([TILE], tl.float32)
    acc = tl.zeros([TILE, BLOCK], tl.float32)
    for index in tl.static_range(COLUMNS + OWN):
        if index < COLUMNS:
            lse_at = at + index * COLUMN
            values, found = load_part(out, lse, item, there, lse_at * DIM, lse_at, DIM)
        else:
            row, head = at // HEADS, at % HEADS
            own_at, lse_at = (
                row * own_row + head * own_head,
                row * own_lse_row + head * own_lse_head,
            )
            values, found = load_part(own_out, own_lse, item, there, own_at, lse_at, DIM)
        new = tl.maximum(top, found)
        shift = tl.where(new == float("-inf"), 0.0, new)
        kept, weight = tl.exp(top - shift), tl.exp(found - shift)
        acc = acc * kept[:, None] + weight[:, None] * values
        total, top = total * kept + weight, new
    acc = acc / tl.where(total > 0, total, 1.0)[:, None]
    lane = tl.arange(0, BLOCK)[None, :]
    to = merged + at[:, None] * DIM + lane
    tl.store(to, acc.to(merged.dtype.element_ty), mask=there[:, None] & (lane < DIM))
    stamp(stamps, layer * 6 + 5, STAMPED)
