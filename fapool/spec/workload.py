"""The requests to generate for: equal ones, lengths drawn over a range, or sampled from a trace."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from fapool.errors import SpecError
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


class RangeWorkload(Strict):
    """`sample` requests whose prompts are spread evenly over a range, `batch` in flight at once.

    The range, both ends in it, is cut into `sample` equal parts and one length is drawn uniformly
    from each, in an order that is drawn, too: a balanced sample, however small. Prompts are
    multiplied by `length_scale` and rounded, at least one token each; outputs are as they are.
    """

    kind: Literal["range"] = "range"
    shortest: Length
    longest: Length
    sample: Count
    batch: Batch = 4
    output: Length
    length_scale: Annotated[float, Field(gt=0, le=1)] = 1.0
    seed: Seed = 0

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.longest < self.shortest:
            raise SpecError("longest", self.longest, f"at least shortest = {self.shortest}")
        return self
