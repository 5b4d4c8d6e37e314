"""Microseconds of a trace to integer nanoseconds, without losing one."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal, InvalidOperation

import numpy as np
from numpy.typing import NDArray

from fapool.traces.events import EXACT_BELOW_US

MISSING = np.iinfo(np.int64).min
"""Stands for an instant that is missing or no number."""


def to_ns(values: Sequence[float | str | Decimal | None]) -> NDArray[np.int64]:
    """Nanoseconds, rounded half to even, of microseconds; `MISSING` where there is no number.

    Exact for floats below `EXACT_BELOW_US` that were written with at most three decimals, and for
    texts and decimals of any size.
    """
    try:
        micros = np.array(values, np.float64) if _all_floats(values) else None
    except (TypeError, ValueError, OverflowError):
        micros = None
    if micros is None or not (np.abs(micros) < EXACT_BELOW_US).all():
        return np.fromiter(map(_one, values), np.int64, len(values))
    whole = np.floor(micros)
    # the fraction alone: a product of the whole would be rounded to halves of a nanosecond
    return whole.astype(np.int64) * 1000 + np.rint((micros - whole) * 1000).astype(np.int64)


def _all_floats(values: Sequence) -> bool:
    return set(map(type, values)) <= {float, int}


def _one(value: float | str | Decimal | None) -> int:
    try:
        nanos = Decimal(value).scaleb(3)
        found = int(nanos.to_integral_value())
    except (TypeError, ValueError, InvalidOperation, OverflowError):
        return MISSING
    return found if abs(found) < 2**61 else MISSING
