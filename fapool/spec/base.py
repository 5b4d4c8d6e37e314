"""What every part of a spec is: frozen, strict, and clear about a user's mistake."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fapool.errors import SpecError

LONGEST = 10_000_000
"""Tokens past which a length is taken for a mistake."""

Count = Annotated[int, Field(ge=1, strict=True)]
Length = Annotated[int, Field(ge=1, le=LONGEST, strict=True)]
Batch = Annotated[int, Field(ge=1, le=65_536, strict=True)]
Seed = Annotated[int, Field(ge=0, lt=2**31, strict=True)]  # that every generator takes


class Strict(BaseModel):
    """Frozen, keyword-only, unknown names refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def __init__(self, /, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise _as_spec_error(error) from None


_MISSING = "missing; give it"
_TAGS = {
    "static",
    "fapool",
    "helix",
    "fixed",
    "trace",
    "range",
}  # of the unions; no part of a field's name


def _as_spec_error(error: ValidationError) -> SpecError:
    first = error.errors()[0]
    path = [str(part) for part in first["loc"] if part not in _TAGS]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, SpecError):
        return _error(".".join([*path, cause.field]), cause.value, cause.way_out)
    if first["type"] == "missing":
        return _error(".".join(path), None, _MISSING)
    way_out = first["msg"]
    if first["type"] == "extra_forbidden":
        way_out = "no such field; `python -m fapool schema` lists those there are"
    return _error(".".join(path) or "spec", first.get("input"), way_out)


def _error(field: str, value: Any, way_out: str) -> SpecError:
    error = SpecError(field, value, way_out)
    if way_out == _MISSING:  # there is no value to show
        error.args = (f"{field}: {way_out}",)
    return error
