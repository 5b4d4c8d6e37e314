"""The requests to generate for: equal ones, or lengths sampled from a trace."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from fapool.spec.base import Batch, Count, Length, Seed, Strict


class Workload(Strict):
    """`batch` equal requests, generated together."""

    kind: Literal["fixed"] = "fixed"
    batch: Batch = 1
    context: Length
    output: Length

    @property
    def length_scale(self) -> float:
        """Lengths are taken as they are."""
        return 1.0


class TraceWorkload(Strict):
    """Request lengths sampled from a published trace, `batch` of them in flight at once.

    `path` is an Azure LLM inference CSV (ContextTokens, GeneratedTokens) or a Mooncake JSONL
    (input_length, output_length). Lengths are multiplied by `length_scale` (outputs by
    `output_scale` where it is given) and rounded, at least one token each. Arrival times are not
    replayed: a slot takes the next request when it is free.
    """

    kind: Literal["trace"] = "trace"
    path: Path
    sample: Count
    batch: Batch = 4
    length_scale: Annotated[float, Field(gt=0, le=1)] = 1.0
    output_scale: Annotated[float, Field(gt=0, le=1)] | None = None
    max_output: Length | None = None
    seed: Seed = 0
