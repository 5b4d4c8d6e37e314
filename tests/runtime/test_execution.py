"""Which steps a run's passes play: warm-up, measurement, and the pass of a memory snapshot."""

import math
from contextlib import nullcontext

import pytest

from fapool import rank as rank_side
from fapool.runtime import decode, execution, readings
from fapool.runtime.engine import Engine
from fapool.runtime.graphs import Graphs
from fapool.runtime.seat import Seat
from fapool.runtime.traced import traced
from fapool.spec import Capture, RunSpec, Static, Workload
from fapool.store import Store

CHECK, ALL = math.inf, math.inf
FIRST_DECODE = 2  # after two chunks of the one prompt
WARM = FIRST_DECODE + execution.WARM_DECODE_STEPS - 1


class NoSnapshot:
    """A memory snapshot that is possible, and writes nothing."""

    possible, said = True, None

    def __init__(self, *args, **labels) -> None:
        pass

    def recording(self):
        return nullcontext()

    def write(self) -> None:
        pass


@pytest.fixture
def passes(monkeypatch):
    """The last step of every pass that is played, in turn."""
    play, found = Engine.play, []

    def noted(self, *args, **labels):
        found.append(labels.get("last_step", math.inf))
        return play(self, *args, **labels)

    monkeypatch.setattr(Engine, "play", noted)
    return found


def run(profiles, capture: Capture | None = None) -> str:
    """How it ended."""
    spec = RunSpec(
        model="tiny",
        plan=Static(),
        workload=Workload(batch=1, context=40, output=12),
        block=16,
        prefill_chunk=32,
        warmup=2,
        repeats=1,
        device="cpu",
        capture=capture or Capture(),
    )
    folder = Store(profiles).create(spec)
    return rank_side.run(spec, rank=0, store=rank_side.open_store(), folder=folder.path)


def test_warm_up_is_the_first_prefill_and_a_few_decode_steps(profiles, passes):
    assert run(profiles) == "finished"
    assert passes == [CHECK, WARM, WARM, ALL]


def test_the_last_warm_up_is_whole_where_steps_are_captured(profiles, passes, monkeypatch):
    monkeypatch.setattr(Seat, "capturable", True)
    monkeypatch.setattr(decode, "Graphs", lambda *at, enabled: Graphs(*at, enabled=False))
    assert run(profiles) == "finished"
    assert passes == [CHECK, WARM, ALL, ALL]


def test_a_memory_snapshot_is_of_one_more_warm_up(profiles, passes, monkeypatch):
    monkeypatch.setattr(readings, "MemorySnapshot", NoSnapshot)
    assert run(profiles) == "finished"
    assert passes == [CHECK, WARM, WARM, ALL, WARM]


def test_a_run_that_is_stopped_while_it_is_traced_is_a_stopped_one(profiles, monkeypatch):
    def stopping(recorder, window, plan, play):
        window.folder.stop_file.touch()
        return traced(recorder, window, plan, play)

    monkeypatch.setattr(execution, "traced", stopping)
    assert run(profiles, Capture(profile_steps=2)) == "stopped"


def test_a_run_that_is_stopped_in_its_snapshots_pass_is_a_stopped_one(profiles, monkeypatch):
    class Stopping(NoSnapshot):
        def __init__(self, folder, *args, **labels) -> None:
            self.folder, self.recordings = folder, 0

        def recording(self):
            self.recordings += 1  # the first one is of the weights
            if self.recordings == 2:
                self.folder.stop_file.touch()
            return nullcontext()

    monkeypatch.setattr(readings, "MemorySnapshot", Stopping)
    assert run(profiles) == "stopped"
