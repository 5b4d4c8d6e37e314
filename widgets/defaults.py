"""What the controls offer and start from, by the kind of device that the ranks have."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Defaults:
    """Lengths are tokens."""

    models: tuple[str, ...]
    backends: tuple[str, ...]
    block: int
    prefill_chunk: int
    shortest: int
    longest: int
    context: int
    threshold: int
    batch: int
    output: int


DEFAULTS = {
    "cpu": Defaults(
        models=("cpu", "tiny"),
        backends=("auto", "cpu", "reference"),
        block=16,
        prefill_chunk=256,
        shortest=64,
        longest=8192,
        context=2048,
        threshold=512,
        batch=2,
        output=64,
    ),
    "cuda": Defaults(
        models=("paper-4l", "paper-4l-gqa", "paper-4l-mqa", "13b"),
        backends=("auto", "triton", "flash_attn", "cudnn_tiled", "cudnn", "aten", "reference"),
        block=256,
        prefill_chunk=8192,
        shortest=1024,
        longest=131_072,
        context=16_384,
        threshold=4096,
        batch=8,
        output=128,
    ),
}


def length_steps(low: int, high: int) -> list[tuple[str, int]]:
    """(label, tokens) from `low` to `high`: powers of two and their halfway points."""
    steps, power = [], 1
    while power <= high:
        steps += [power, power * 3 // 2]
        power *= 2
    return [(length_label(n), n) for n in sorted(set(steps)) if low <= n <= high]


def length_label(tokens: int) -> str:
    """`1536` as `1.5K`; exact, so never a rounded figure."""
    if tokens >= 1024 and (tokens * 2) % 1024 == 0:
        return f"{tokens / 1024:g}K"
    return str(tokens)
