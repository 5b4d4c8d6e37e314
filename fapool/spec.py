"""What to run: model, plan, workload, seeds. Frozen, validated, JSON and YAML both ways.

Unknown names are errors. Lengths are tokens. A spec says nothing of what was found out at run
time; that goes to `environment.json`.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from fapool.errors import SpecError
from fapool.presets import MODELS

LONGEST = 10_000_000
"""Tokens past which a length is taken for a mistake."""

Count = Annotated[int, Field(ge=1, strict=True)]
Length = Annotated[int, Field(ge=1, le=LONGEST, strict=True)]
Batch = Annotated[int, Field(ge=1, le=65_536, strict=True)]
Backend = Literal["auto", "reference", "cpu", "aten", "cudnn", "flash_attn"]


class Strict(BaseModel):
    """Frozen, keyword-only, unknown names refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise _as_spec_error(error) from None


class Model(Strict):
    """A decoder-only transformer: sizes in elements, one dtype for weights, KV and activations."""

    name: str = "custom"
    layers: Count
    hidden: Count
    heads: Count
    kv_heads: Count
    head_dim: Annotated[int, Field(ge=8, le=256, multiple_of=8)]
    ffn: Count
    vocab: Count
    rope_base: Annotated[float, Field(gt=1)] = 10_000.0
    dtype: Literal["float64", "float32", "bfloat16", "float16"] = "bfloat16"

    @classmethod
    def preset(cls, name: str, **changes: Any) -> Self:
        """A named size (see `fapool.presets`), with some of its fields changed.

        Raises:
            SpecError: no preset has that name.
        """
        if name not in MODELS:
            raise SpecError("model", name, f"name one of {', '.join(MODELS)}, or give all sizes")
        return cls(**({"name": name} | MODELS[name] | changes))

    @model_validator(mode="after")
    def _heads_group(self) -> Self:
        if self.heads % self.kv_heads:
            raise SpecError("kv_heads", self.kv_heads, f"choose a divisor of heads = {self.heads}")
        return self

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}[self.dtype]

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of the keys and values of one token over all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim * self.itemsize


class Static(Strict):
    """Tensor parallel over `tp` ranks, pipeline over `pp` stages; never changes."""

    kind: Literal["static"] = "static"
    tp: Count = 1
    pp: Count = 1
    micro_batches: Count | None = None  # None: one per stage

    @property
    def world(self) -> int:
        """Ranks that it takes."""
        return self.tp * self.pp

    def __str__(self) -> str:
        return f"Static({self.tp},{self.pp})"


class FAPool(Strict):
    """A static base plus a pool whose ranks are leased to requests longer than `threshold`.

    `threshold` is in tokens of the published workload: a trace's `length_scale` shrinks it as it
    shrinks the lengths. A request is leased as soon as more than `threshold` of its tokens have
    keys. `lease_ranks` is how many shards of the pool one lease takes; None takes all.
    """

    kind: Literal["fapool"] = "fapool"
    base: Count = 1
    pool: Annotated[int, Field(ge=0, strict=True)] = 0
    threshold: Count = 4096
    lease_ranks: Count | None = None

    @property
    def world(self) -> int:
        """Ranks that it takes."""
        return self.base + self.pool

    def __str__(self) -> str:
        return f"FAPool({self.base},{self.pool})"


Plan = Annotated[Static | FAPool, Field(discriminator="kind")]


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
    seed: int = 0


class Capture(Strict):
    """What is recorded beside the results."""

    spans: bool = True
    memory: bool = True
    live_hz: Annotated[float, Field(gt=0, le=20)] = 8.0
    profile_steps: Annotated[int, Field(ge=0, strict=True)] = 0  # decode steps traced; 0 none


class RunSpec(Strict):
    """One measured execution, whole.

    Raises:
        SpecError: a value is impossible, alone or with the others; says which and the way out.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{0,60}$")] = ""
    model: Model
    plan: Plan
    workload: Annotated[Workload | TraceWorkload, Field(discriminator="kind")]
    backend: Backend = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    block: Annotated[int, Field(ge=1, le=4096, strict=True)] = 256  # tokens of one KV block
    prefill_chunk: Count = 2048  # tokens of one prefill step
    repeats: Count = 1
    warmup: Annotated[int, Field(ge=0, strict=True)] = 1
    seed: int = 0
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
        check_layout(self.model, self.plan)
        if isinstance(self.plan, FAPool) and self.threshold < self.block:
            raise SpecError(
                "plan.threshold",
                self.plan.threshold,
                f"it is {self.threshold} tokens at this length scale, less than one KV block; "
                f"raise it, or lower block = {self.block}",
            )
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


def parse(text: str) -> RunSpec:
    """A spec from YAML or JSON text.

    Raises:
        SpecError: not a mapping, not YAML, or not a valid spec.
    """
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SpecError("spec", text[:80], f"not YAML or JSON: {error}") from None
    if not isinstance(values, dict):
        raise SpecError("spec", text[:80], "give a mapping with model, plan and workload")
    if strange := [key for key in values if not isinstance(key, str)]:
        raise SpecError("spec", strange[0], "no such field; fields have names")
    return RunSpec(**values)


def read(path: Path | str) -> RunSpec:
    """A spec from a YAML or JSON file.

    Raises:
        SpecError: no such file, or not a valid spec.
    """
    try:
        return parse(Path(path).read_text())
    except OSError as error:
        raise SpecError("spec", str(path), f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SpecError("spec", str(path), "is not text; give a YAML or JSON file") from None


def check_layout(model: Model, plan: Static | FAPool) -> None:
    """Refuse a plan whose slices do not come out even.

    Raises:
        SpecError: names the field of the plan and the sizes that would do.
    """
    field, tp = ("plan.tp", plan.tp) if isinstance(plan, Static) else ("plan.base", plan.base)
    for name in ("heads", "ffn"):
        if getattr(model, name) % tp:
            raise SpecError(field, tp, f"choose a divisor of model.{name} = {getattr(model, name)}")
    if model.kv_heads % tp and tp % model.kv_heads:
        raise SpecError(
            field, tp, f"choose a divisor or a multiple of model.kv_heads = {model.kv_heads}"
        )
    if isinstance(plan, Static) and plan.pp > model.layers:
        raise SpecError("plan.pp", plan.pp, f"at most model.layers = {model.layers} stages")
    if isinstance(plan, FAPool) and plan.lease_ranks and plan.lease_ranks > max(plan.pool, 1):
        raise SpecError("plan.lease_ranks", plan.lease_ranks, f"at most plan.pool = {plan.pool}")


_TAGS = {"static", "fapool", "fixed", "trace"}  # of the unions; no part of a field's name


def _as_spec_error(error: ValidationError) -> SpecError:
    first = error.errors()[0]
    path = [str(part) for part in first["loc"] if part not in _TAGS]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, SpecError):
        return SpecError(".".join([*path, cause.field]), cause.value, cause.way_out)
    way_out = first["msg"]
    if first["type"] == "extra_forbidden":
        way_out = "no such field; `python -m fapool schema` lists those there are"
    return SpecError(".".join(path) or "spec", first.get("input"), way_out)
