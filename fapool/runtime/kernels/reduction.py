"""A sum over ranks in one kernel, for vectors so small that only latency counts.

Every 8 bytes that travel carry 4 bytes of data and the number of the sum (NCCL calls it LL): a
receiver sees from the word itself that it is there, so nothing waits for a fence or for a flag.

    shapes:  R ranks, C CTAs, L words of a CTA (BLOCK); a word is 4 bytes of the vector

    box at every rank: [2, R, C * L] 8 bytes each, by parity of the sum, sender and place

Two boxes are enough: rank r sends sum e + 2 after it has received all of e + 1, which every rank
sent after its kernel of sum e had ended. This holds for each CTA by itself, so each counts its own
sums, and vectors of different sizes may follow each other.
"""

from __future__ import annotations

import triton
import triton.language as tl

from fapool.runtime.kernels.signals import trap


@triton.jit
def _store(address, word):
    tl.inline_asm_elementwise(
        "st.relaxed.sys.global.b64 [$1], $2; mov.u32 $0, 0;",
        "=r,l,l",
        [address, word],
        dtype=tl.int32,
        is_pure=False,
        pack=1,
    )


@triton.jit
def _take(box, number, limit):
    """The data of words whose number has come."""
    behind = 1
    polls = 0
    word = tl.zeros(box.shape, tl.int64)
    while behind != 0:
        word = tl.inline_asm_elementwise(
            "ld.relaxed.sys.global.b64 $0, [$1];",
            "=l,l",
            [box],
            dtype=tl.int64,
            is_pure=False,
            pack=1,
        )
        behind = tl.max(((word >> 32).to(tl.int32) != number).to(tl.int32))
        polls += 1
        if (limit > 0) & (polls == limit):
            trap(behind)
    return word.to(tl.int32)


@triton.jit
def _low(word, dtype: tl.constexpr):
    if dtype == tl.float32:
        return word.to(tl.float32, bitcast=True)
    else:
        return word.to(tl.int16).to(dtype, bitcast=True).to(tl.float32)


@triton.jit
def _high(word, dtype: tl.constexpr):
    return (word >> 16).to(tl.int16).to(dtype, bitcast=True).to(tl.float32)


@triton.jit
def _packed(low, high, dtype: tl.constexpr):
    if dtype == tl.float32:
        return low.to(tl.int32, bitcast=True)
    else:
        under = low.to(dtype).to(tl.int16, bitcast=True).to(tl.int32) & 0xFFFF
        return under | (high.to(dtype).to(tl.int16, bitcast=True).to(tl.int32) << 16)


@triton.jit(do_not_specialize=["words", "limit"])
def small_sum(
    x, out, boxes, counts, words, limit,
    RANK: tl.constexpr, RANKS: tl.constexpr, CAPACITY: tl.constexpr,
    dtype: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """out = the sum of every rank's x [words], fp32 in order of rank; `boxes` [R] addresses."""
    cta = tl.program_id(0)
    number = tl.load(counts + cta) + 1
    at = cta * BLOCK + tl.arange(0, BLOCK)
    there = at < words
    # Words past the end do as the CTA's first one does.
    place = tl.where(there, at, cta * BLOCK)
    own = tl.load(x + place)
    box = (number & 1) * (RANKS * CAPACITY) + place
    message = (number.to(tl.int64) << 32) | (own.to(tl.int64) & 0xFFFFFFFF)
    for step in tl.static_range(1, RANKS):
        peer = tl.load(boxes + (RANK + step) % RANKS).to(tl.pointer_type(tl.int64))
        _store(peer + box + RANK * CAPACITY, message)
    here = tl.load(boxes + RANK).to(tl.pointer_type(tl.int64)) + box
    low = tl.zeros([BLOCK], tl.float32)
    high = tl.zeros([BLOCK], tl.float32)
    for rank in tl.static_range(RANKS):
        word = own if rank == RANK else _take(here + rank * CAPACITY, number, limit)
        low += _low(word, dtype)
        if dtype != tl.float32:
            high += _high(word, dtype)
    tl.store(out + at, _packed(low, high, dtype), mask=there)
    tl.debug_barrier()
    tl.store(counts + cta, number)
