"""How GPUs of a node tell each other that data is there: words that only grow, read and written
with system scope. For kernels that read or write a peer's memory.

A flag holds the number of the last message. Numbers wrap: compare by their difference.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import globaltimer

STRIDE = tl.constexpr(128)
"""Flag words of one sender: one for each of its CTAs (word p * SENDERS + c: CTA c, piece p)."""

SENDERS = tl.constexpr(32)


@triton.jit
def raise_flag(flag, number):
    """Set `flag`, a peer's word, after everything that this CTA has written.

    The barrier orders the CTA's stores before thread 0, whose release makes them visible first.
    """
    tl.debug_barrier()
    tl.inline_asm_elementwise(
        """{
        .reg .u32 t;
        .reg .pred p;
        mov.u32 t, %tid.x;
        setp.eq.u32 p, t, 0;
        @p st.release.sys.global.u32 [$1], $2;
        mov.u32 $0, 0;
        }""",
        "=r,l,r",
        [flag, number],
        dtype=tl.int32,
        is_pure=False,
        pack=1,
    )


@triton.jit
def wait_for(flags, number, width, limit, ENDS: tl.constexpr, PIECES: tl.constexpr):
    """Until `width` CTAs of each piece of all `ENDS` senders have reached `number`.

    What they wrote before may be read afterwards by every thread of this CTA. After `limit` polls
    (0: never) the kernel traps.
    """
    WORDS: tl.constexpr = triton.next_power_of_2(ENDS) * STRIDE
    word = tl.arange(0, WORDS)
    asked = (word < ENDS * STRIDE) & (word % STRIDE < PIECES * SENDERS) & (word % SENDERS < width)
    asked = asked.to(tl.int32)
    behind = 1
    polls = 0
    while behind != 0:
        seen = tl.inline_asm_elementwise(
            """{
            .reg .pred p;
            setp.ne.s32 p, $2, 0;
            mov.u32 $0, $3;
            @p ld.acquire.sys.global.u32 $0, [$1];
            }""",
            "=&r,l,r,r",
            [flags + word, asked, number],
            dtype=tl.int32,
            is_pure=False,
            pack=1,
        )
        behind = tl.max((number - seen > 0).to(tl.int32))
        polls += 1
        if (limit > 0) & (polls == limit):
            trap(behind)
    tl.debug_barrier()


@triton.jit
def trap(lost):
    """End the kernel with an error if `lost`."""
    tl.inline_asm_elementwise(
        """{
        .reg .pred p;
        setp.ne.s32 p, $1, 0;
        @p trap;
        mov.u32 $0, 0;
        }""",
        "=r,r",
        [lost],
        dtype=tl.int32,
        is_pure=False,
        pack=1,
    )


@triton.jit
def stamp(stamps, at, STAMPED: tl.constexpr):
    """Write the device's clock, ns, to stamps[at], once per kernel."""
    if STAMPED:
        first = tl.program_id(0) + tl.program_id(1) + tl.program_id(2) == 0
        tl.store(stamps + at, globaltimer(), mask=first)
