"""The pass that a profiler traces: the steps as they run, captured graphs included."""

from __future__ import annotations

from collections.abc import Callable

from fapool.instrument.recorder import Recorder
from fapool.instrument.window import ProfilerWindow
from fapool.phases import TRACED, WARM_UP
from fapool.runtime.engine import Played
from fapool.runtime.plans.base import Plan
from fapool.spec import RunSpec
from fapool.store import RunFolder
from fapool.topology import Place
from fapool.traces.graphs import graph_lines, graphs_name

SAMPLE_EVERY = 2
"""Of traced decode steps that come from graphs, every second one has live spans as well."""


def window_of(
    recorder: Recorder, folder: RunFolder, place: Place, spec: RunSpec, begin: int, last: int
) -> ProfilerWindow:
    """A window over steps `begin` to `last`, after which nothing is played."""
    about = {
        "fingerprint": spec.fingerprint,
        "plan": str(spec.plan),
        "role": place.role.value,
        "device": recorder.device.type,
    }
    return ProfilerWindow(
        folder,
        place.rank,
        place.world,
        recorder,
        begin,
        last + 1 - begin,
        about,
        stop_on_close=True,
    )


def traced(
    recorder: Recorder, window: ProfilerWindow, plan: Plan, play: Callable[..., Played]
) -> Played:
    """Trace the window's steps of one more pass over the workload, which ends with them.

    Live spans of these steps are kept apart (see `Recorder.begin`), to be held against the trace.
    Graphs are captured in a pass of their own before it, where there are any; which kernel of a
    graph belongs to which span goes to `trace/graphs.<rank>.jsonl`. `play(plan, repeat=, ...)`
    plays up to the window's last step.
    """
    captures, sample_every = recorder.captures, recorder.sample_every
    captures.wanted, recorder.sample_every = True, SAMPLE_EVERY
    if recorder.device.type == "cuda":
        play(plan, repeat=WARM_UP)
        plan.reset()
    recorder.at_border = window.step_ends
    try:
        played = play(plan, repeat=TRACED, before=lambda step: window.step_begins(step.index))
    finally:
        captures.wanted, recorder.sample_every, recorder.at_border = False, sample_every, None
    window.close()
    if captures.graphs:
        lines = graph_lines(graph.as_json() for graph in captures.graphs)
        window.folder.write_bytes(f"trace/{graphs_name(window.rank)}", lines)
    return played
