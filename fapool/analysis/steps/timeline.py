"""The spans of one step, all ranks on one clock: what a timeline draws."""

from __future__ import annotations

import numpy as np
import pandas as pd

from fapool.analysis import exchanges
from fapool.analysis.breakdown import ORDER, declared
from fapool.analysis.load import Tables
from fapool.analysis.sampled import recorded
from fapool.analysis.steps.graph import step_graph
from fapool.errors import StoreError


def one_step(tables: Tables, *, step: int | None = None, repeat: int = 0) -> pd.DataFrame:
    """Spans of one step: rank, role, category, phase, layer, start_us, end_us.

    Waits are split at their arrival. Microseconds since the first rank began the step; spans are
    cut at their rank's borders. `step` None takes the decode step (without any, the step) whose
    wall time on the lowest rank is nearest to the median, of those that had spans.

    Raises:
        StoreError: the run has no such step.
    """
    steps = tables.steps[tables.steps["repeat"] == repeat]
    step = typical_step(tables, repeat=repeat) if step is None else step
    chosen = steps[steps["step"] == step].set_index("rank")
    if chosen.empty:
        raise StoreError(f"{tables.name} has no step {step} in repeat {repeat}")
    near = tables.events["repeat"] == repeat
    near &= tables.events["end_ns"] > chosen["start_ns"].min()
    near &= tables.events["start_ns"] < chosen["end_ns"].max()
    events = tables.events[near].reset_index(drop=True)
    met = exchanges.match(events)
    once = ~pd.Series(met.span).duplicated().to_numpy() | (met.span < 0)  # served several, or none
    spans = declared(events, met.arrival_ns)
    spans = spans[spans["rank"].isin(chosen.index) & once[spans["event"]]]
    home = chosen.loc[spans["rank"]]
    found = home[["role"]].reset_index()
    found["category"] = np.array(ORDER, object)[spans["code"]]
    for name in ("phase", "layer"):
        found[name] = events[name].to_numpy()[spans["event"]]
    for edge in ("start", "end"):
        inside = np.clip(
            spans[f"{edge}_ns"].to_numpy(), home["start_ns"].to_numpy(), home["end_ns"].to_numpy()
        )
        found[f"{edge}_us"] = (inside - chosen["start_ns"].min()) / 1e3
    found = found[found["end_us"] > found["start_us"]]
    return found.sort_values(["rank", "start_us"], ignore_index=True)


def critical_in(tables: Tables, *, step: int, repeat: int = 0) -> pd.DataFrame:
    """The step's critical path on the time axis of `one_step`: rank, phase, start_us, end_us.

    Time in which nothing was recorded is left out.
    """
    steps = tables.steps[(tables.steps["repeat"] == repeat) & (tables.steps["step"] == step)]
    path = step_graph(tables, repeat=repeat, step=step).path()
    path = path[path["phase"] != ""]
    found = path[["rank", "phase"]].reset_index(drop=True)
    for edge in ("start", "end"):
        found[f"{edge}_us"] = (path[f"{edge}_ns"].to_numpy() - steps["start_ns"].min()) / 1e3
    return found


def typical_step(tables: Tables, *, repeat: int = 0) -> int:
    """The step that `one_step` takes when none is named."""
    steps = tables.steps[tables.steps["repeat"] == repeat]
    steps = steps[recorded(steps)]
    own = steps[steps["rank"] == steps["rank"].min()]
    decode = own[own["kind"] == "decode"]
    own = decode if len(decode) else own
    wall = own["end_ns"] - own["start_ns"]
    return int(own.loc[(wall - wall.median()).abs().idxmin(), "step"])
