"""Which steps of a trace that was cut off are whole: what came after is missing, not idle.

The host's ranges stand first in a file of Kineto's, a step with its end; then calls and activities
of the device, each in the order of their launches, either of them ahead.

    host     [ step 1 ][ step 2 ][ step 3 ]
    launch     l l      l l   l|                 the last that has its kernel here is of step 2
    kernel       k k k   k k k|                  step 1 is whole; of step 2 nobody knows
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fapool.analysis.activities.kernels import column
from fapool.analysis.intervals import Times
from fapool.traces import Trace

_ALL, _NOTHING = np.iinfo(np.int64).max, np.iinfo(np.int64).min
_OF_HOST = ("ops", "spans", "collectives")


def whole(trace: Trace, end_ns: Times) -> NDArray[np.bool_]:
    """Whether all of each of the host's steps, which end at `end_ns`, is in the trace."""
    return end_ns <= known_until_ns(trace)


def known_until_ns(trace: Trace) -> int:
    """The host's instant up to which all that it began is in the trace, with what it launched."""
    if not trace.cut_off:
        return _ALL
    if not trace.kernels.num_rows:
        starts = [column(getattr(trace, name), "start_ns") for name in _OF_HOST]
        return _NOTHING if _has_device(trace) else _latest(np.concatenate(starts))
    if not trace.launches.num_rows:
        return _latest(column(trace.kernels, "start_ns"))
    done = np.isin(column(trace.launches, "correlation"), column(trace.kernels, "correlation"))
    return _latest(column(trace.launches, "start_ns")[done])


def note(left: int, of: int) -> str:
    """What was done about `left` of the steps that are known, in words."""
    return (
        f"{of - left} of its steps are whole; {left} reach past what is left of its events and are "
        "left out, as are any after them: other ranks' waits for it in these are not split and "
        "count as communication"
    )


def _latest(start_ns: Times) -> int:
    return int(start_ns.max(initial=_NOTHING))


def _has_device(trace: Trace) -> bool:
    """Whether activities of a device are missing where there are none."""
    about = trace.metadata.get("fapool")
    device = about.get("device") if isinstance(about, dict) else None
    return device == "cuda" if device else bool(trace.metadata.get("deviceProperties"))
