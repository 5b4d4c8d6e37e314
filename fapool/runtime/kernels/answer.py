"""Combine and answer in one kernel, for batches so small that a launch weighs.

shapes:  B rows, H heads of a base rank, Hg heads of a head group, D head dim, I items, E ends
"""

from __future__ import annotations

import triton
import triton.language as tl

from fapool.runtime.kernels.combine import absorb_items, nothing, settle
from fapool.runtime.kernels.exchange import UNSPECIALIZED
from fapool.runtime.kernels.signals import raise_flag, stamp


@triton.jit(do_not_specialize=UNSPECIALIZED)
def answer_items(
    item_out, item_lse, first_item, routes, epoch, stamps, layer, rows,
    HEADS: tl.constexpr, GROUP_HEADS: tl.constexpr, DIM: tl.constexpr, AT_ONCE: tl.constexpr,
    WIRE: tl.constexpr, STAMPED: tl.constexpr,
):  # fmt: skip
    """Every row's items, out [I, Hg, D] and lse [I, Hg] fp32, merged into the bases' buffers.

    Grid (CTAs, E); row b has the items first_item[b] .. first_item[b + 1]. `routes` [E, 4]:
    addresses of flags, out and lse of this column there; first head of the base. D is a power of
    two.
    """
    stamp(stamps, layer * 6 + 3, STAMPED)
    route = routes + 4 * tl.program_id(1)
    flags = tl.load(route).to(tl.pointer_type(tl.int32))
    to_out = tl.multiple_of(tl.load(route + 1).to(tl.pointer_type(WIRE)), 16)
    to_lse = tl.load(route + 2).to(tl.pointer_type(tl.float32))
    first_head = tl.load(route + 3).to(tl.int32)
    number = tl.load(epoch) + layer + 1
    for place in range(tl.program_id(0), rows * HEADS, tl.num_programs(0)):
        row, head = place // HEADS, first_head + place % HEADS
        begin, end = tl.load(first_item + row), tl.load(first_item + row + 1)
        top, total, acc = nothing(DIM)
        top, total, acc = absorb_items(
            top, total, acc, item_out, item_lse, begin, end, head, GROUP_HEADS, DIM, AT_ONCE
        )
        out, lse = settle(top, total, acc)
        tl.store(to_out + place * DIM + tl.arange(0, DIM), out.to(WIRE))
        tl.store(to_lse + place, lse)
    raise_flag(flags + tl.program_id(0), number)
    stamp(stamps, layer * 6 + 5, STAMPED)
