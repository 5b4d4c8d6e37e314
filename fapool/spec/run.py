"""The whole spec of a run, and its ways to and from text."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import Field, model_validator

from fapool.errors import SpecError
from fapool.spec.base import Count, Seed, Strict
from fapool.spec.model import Model
from fapool.spec.plan import FAPool, Plan, check_layout
from fapool.spec.text import load
from fapool.spec.workload import RangeWorkload, TraceWorkload, Workload

Backend = Literal[
    "auto", "reference", "cpu", "aten", "cudnn", "cudnn_tiled", "flash_attn", "triton"
]


class Capture(Strict):
    """What is recorded beside the results."""

    spans: bool = True
    memory: bool = True
    # Of decode steps that come from a graph, one in so many has spans; it takes a little longer.
    # The host waits for a sampled step before the next one: 1 and 2 take from its lead, too.
    sample_every: Count = 32
    live_hz: Annotated[float, Field(gt=0, le=20)] = 8.0
    # Decode steps traced, 0 none. No viewer opens what many more would write.
    profile_steps: Annotated[int, Field(ge=0, le=64, strict=True)] = 0
    # On GPUs: one more pass, and a file of its allocations for PyTorch's memory viewer.
    memory_snapshot: bool = False


class RunSpec(Strict):
    """One measured execution, whole.

    Raises:
        SpecError: a value is impossible, alone or with the others; says which and the way out.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{0,60}$")] = ""
    model: Model
    plan: Plan
    workload: Annotated[Workload | TraceWorkload | RangeWorkload, Field(discriminator="kind")]
    backend: Backend = "auto"
    transport: Literal["auto", "messages", "symmetric"] = "auto"  # of queries and partials
    graphs: bool = True  # decode steps come from CUDA graphs where device and kernels allow it
    ranks_per_node: Count | None = None  # in order of rank, for the plan; None: all on one node
    device: Literal["auto", "cpu", "cuda"] = "auto"
    block: Annotated[int, Field(ge=1, le=4096, strict=True)] = 256  # tokens of one KV block
    prefill_chunk: Count = 2048  # tokens of one prefill step
    repeats: Count = 1
    # Passes up to the first decode steps; the last one whole where steps come from CUDA graphs.
    warmup: Annotated[int, Field(ge=0, strict=True)] = 1
    seed: Seed = 0
    capture: Capture = Capture()

    @model_validator(mode="before")
    @classmethod
    def _named_parts(cls, values: Any) -> Any:
        if isinstance(values, dict):
            values = dict(values)
            if isinstance(values.get("model"), str):
                values["model"] = Model.preset(values["model"])
            for part, default in (("plan", "static"), ("workload", "fixed")):
                if isinstance(values.get(part), dict):
                    values[part] = {"kind": default} | values[part]
        return values

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        check_layout(self.model, self.plan, self.ranks_per_node)
        if isinstance(self.plan, FAPool) and self.threshold < self.block:
            raise SpecError(
                "plan.threshold",
                self.plan.threshold,
                f"it is {self.threshold} tokens at this length scale, less than one KV block; "
                f"raise it, or lower block = {self.block}",
            )
        merges = isinstance(self.plan, FAPool) and self.plan.reduction == "hierarchical"
        if merges and self.transport == "symmetric":
            way_out = "plan.reduction = hierarchical goes by messages; choose auto or messages"
            raise SpecError("transport", self.transport, way_out)
        check_device(self, self.device)
        if self.capture.profile_steps and not self.capture.spans:
            way_out = "kernels are put to spans: leave capture.spans on, or trace 0 steps"
            raise SpecError("capture.profile_steps", self.capture.profile_steps, way_out)
        if self.prefill_chunk % self.block:
            raise SpecError(
                "prefill_chunk", self.prefill_chunk, f"choose a multiple of block = {self.block}"
            )
        return self

    @property
    def threshold(self) -> int | None:
        """The plan's threshold at this workload's length scale, in tokens; None without one."""
        if not isinstance(self.plan, FAPool):
            return None
        return max(1, round(self.plan.threshold * self.workload.length_scale))

    @property
    def fingerprint(self) -> str:
        """Twelve hex digits that name the spec, whatever its `name`; stable across machines."""
        values = self.model_dump(mode="json", exclude={"name"})
        text = json.dumps(values, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def to_json(self) -> str:
        """Indented JSON that `parse` reads back to an equal spec."""
        return self.model_dump_json(indent=2)

    def to_yaml(self) -> str:
        """YAML that `parse` reads back to an equal spec."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)

    def replace(self, **changes: Any) -> RunSpec:
        """A copy with top-level fields changed, validated anew."""
        return RunSpec(
            **({name: getattr(self, name) for name in type(self).model_fields} | changes)
        )


ON_GPUS = ("aten", "cudnn", "cudnn_tiled", "flash_attn", "triton")
"""Backends that no CPU runs; `triton` but in its interpreter, which is for tests of kernels."""


def check_device(spec: RunSpec, device: Literal["auto", "cpu", "cuda"]) -> None:
    """Refuse what no machine could do on that kind of device; of `auto` only what none could.

    Raises:
        SpecError: names the backend or the transport, and the way out.
    """
    here = f"device = {device}" if spec.device == device else f"the ranks are on {device}"
    if device == "cpu" and spec.backend in ON_GPUS:
        raise SpecError("backend", spec.backend, f"runs on GPUs, and {here}; choose auto")
    if device == "cuda" and spec.backend == "cpu":
        raise SpecError("backend", spec.backend, f"runs on CPUs, and {here}; choose auto")
    if spec.transport != "symmetric":
        return
    if device == "cpu":
        way_out = f"stores into memory that GPUs share, and {here}; choose auto"
        raise SpecError("transport", spec.transport, way_out)
    if spec.model.dtype == "float64":
        way_out = "carries no float64 (model.dtype); choose auto"
        raise SpecError("transport", spec.transport, way_out)


def parse(text: str) -> RunSpec:
    """A spec from YAML or JSON text.

    Raises:
        SpecError: not a mapping, not YAML, or not a valid spec.
    """
    return RunSpec(**load(text))


def read(path: Path | str) -> RunSpec:
    """A spec from a YAML or JSON file.

    Raises:
        SpecError: no such file, or not a valid spec; names the file where no field is to blame.
    """
    try:
        text = Path(path).read_text()
    except OSError as error:
        raise SpecError("spec", str(path), f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SpecError("spec", str(path), "is not text; give a YAML or JSON file") from None
    try:
        return parse(text)
    except SpecError as error:
        if error.field != "spec":
            raise
        raise SpecError("spec", str(path), error.way_out) from None
