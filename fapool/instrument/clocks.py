"""All that is known of one rank's clocks, as `environment.json` and the merged trace state it.

device's events --> host's clock --> rank 0's host     = Unix time of all tables
torch.profiler's trace -->-'
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fapool.instrument.alignment import Line
from fapool.instrument.clock import HostClock, about_line
from fapool.instrument.recorder import Recorder


def about_clocks(host: HostClock, recorder: Recorder, profiled: Line | None) -> dict[str, Any]:
    """A rank's clocks: `uncertainty_ns` of its times in the tables against rank 0's host.

    `device` is None on CPU, `profiler` where nothing was traced; its `offset_ns` is added to a
    trace's Unix time to get that of the tables. Two ranks' times may differ by the sum of theirs.
    """
    at_host = host.about()
    device = recorder.device_clock.about() if recorder.device_clock else None
    profiler = _profiler(host, recorder, profiled) if profiled else None
    known = [part for part in (at_host, device) if part]
    return {
        "uncertainty_ns": sum(part["uncertainty_ns"] for part in known),
        "host": at_host,
        "device": device,
        "profiler": profiler,
        "notes": [note for part in (*known, profiler) if part for note in part.pop("notes")],
    }


def of_ranks(ranks: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What `environment.json` and the merged trace state of the clock, from the ranks' entries.

    `uncertainty_ns` is of the tables' times; `traces_uncertainty_ns` of those in a rank's trace,
    where it was traced: kernels, launches and the spans that the profiler saw.
    """
    clocks = {str(rank["rank"]): rank["clock"] for rank in ranks}
    traced = {rank: clock for rank, clock in clocks.items() if clock.get("profiler")}
    return {
        "clock": "Unix time of rank 0's host; two ranks' times may differ by the sum of theirs",
        "uncertainty_ns": {rank: clock["uncertainty_ns"] for rank, clock in clocks.items()},
        "traces_uncertainty_ns": {
            rank: clock["host"]["uncertainty_ns"] + clock["profiler"]["uncertainty_ns"]
            for rank, clock in traced.items()
        },
        "notes": [
            f"rank {rank}: {note}" for rank, clock in clocks.items() for note in clock["notes"]
        ],
    }


def _profiler(host: HostClock, recorder: Recorder, line: Line) -> dict[str, Any]:
    middle = (line.start_ns + line.end_ns) // 2
    ours = host.settle()(middle + line.offset_ns(middle) + recorder.unix_offset_ns)
    return about_line(line, "the profiler's clock") | {"offset_ns": ours - middle}
