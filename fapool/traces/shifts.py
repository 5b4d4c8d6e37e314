"""What lies between the clock of a run's traces and that of its tables."""

from __future__ import annotations

from typing import Any


def shifts(environment: dict[str, Any]) -> dict[int, int]:
    """Rank -> what is added to its trace's Unix ns to get those of the tables, as far as is known.

    The profiler's own word for Unix time stands where the rounds do not contradict it: an offset
    within their uncertainty is none.
    """
    ranks, found = environment.get("ranks"), {}
    for rank in ranks if isinstance(ranks, list) else []:
        try:
            line = rank["clock"]["profiler"]
            offset_ns, unsure_ns = int(line["offset_ns"]), int(line.get("uncertainty_ns", 0))
            found[int(rank["rank"])] = offset_ns if abs(offset_ns) > unsure_ns else 0
        except (KeyError, TypeError, ValueError):  # of another version, or nothing was traced
            continue
    return found
