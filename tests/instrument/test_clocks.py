"""What a run says of its clocks: the sum of what each step on the way to rank 0 leaves open."""

from types import SimpleNamespace

import torch

from fapool.instrument.alignment import Line
from fapool.instrument.clock import about_line, unix_offset_ns
from fapool.instrument.clocks import about_clocks, of_ranks
from fapool.instrument.profiler_clock import ProfilerClock
from fapool.instrument.recorder import Recorder
from fapool.instrument.window import ProfilerWindow
from fapool.phases import Phase, Role
from fapool.store import RunFolder


def line(uncertainty_ns: int, offset_ns: int = 0, misfit_ns: int = 0) -> Line:
    return Line(
        start_ns=0,
        end_ns=2_000_000_000,
        start_offset_ns=offset_ns,
        end_offset_ns=offset_ns + 10,
        start_uncertainty_ns=uncertainty_ns,
        end_uncertainty_ns=uncertainty_ns // 2,
        rounds=7,
        misfit_ns=misfit_ns,
    )


def parts(misfit_ns: int = 0) -> tuple:
    host = SimpleNamespace(
        about=lambda: about_line(line(40_000, misfit_ns=misfit_ns), "rank 0"),
        settle=lambda: lambda time_ns: time_ns + 3,
    )
    device = SimpleNamespace(about=lambda: about_line(line(3_000), "the device"))
    return host, SimpleNamespace(device_clock=device, unix_offset_ns=1_000)


def test_uncertainties_add_up_on_the_way_to_rank_0():
    found = about_clocks(*parts(), line(700, offset_ns=50))
    assert found["uncertainty_ns"] == 43_000
    assert found["host"]["drift_ppb"] == 5
    assert found["host"]["end_uncertainty_ns"] == 20_000
    assert found["profiler"]["offset_ns"] == 50 + 5 + 1_000 + 3
    assert found["notes"] == []


def test_a_clock_that_was_stepped_is_noted_with_its_rank():
    clock = about_clocks(*parts(misfit_ns=9_000), None)
    first = {"uncertainty_ns": 0, "notes": []}
    found = of_ranks([{"rank": 0, "clock": first}, {"rank": 1, "clock": clock}])
    assert found["uncertainty_ns"] == {"0": 0, "1": 43_000}
    (note,) = found["notes"]
    assert note.startswith("rank 1: ")
    assert "9,000 ns" in note


def test_times_of_traces_have_a_bound_of_their_own():
    traced = about_clocks(*parts(), line(700))
    clock = {"uncertainty_ns": 0, "notes": [], "profiler": None}
    found = of_ranks([{"rank": 0, "clock": clock}, {"rank": 1, "clock": traced}])
    assert found["traces_uncertainty_ns"] == {"1": traced["host"]["uncertainty_ns"] + 700}


def test_the_profilers_clock_is_found_from_the_ranges_that_both_know(tmp_path):
    recorder = Recorder(rank=0, role=Role.BASE, device=torch.device("cpu"))
    window, x = ProfilerWindow(RunFolder(tmp_path), 0, 1, recorder, 0, 3), torch.ones(64, 64)
    for step in range(3):
        window.step_begins(step)
        with recorder.span(Phase.FFN):
            x @ x
        window.step_ends(step)
    assert window.close() is not None
    assert window.line.rounds == 6
    # Both are Unix time of this host, but for what the recorder was not told.
    unix = line(0).offset_ns(0) + window.line.start_offset_ns
    assert window.line.uncertainty_ns < 5_000_000
    assert abs(unix + unix_offset_ns()) < 5_000_000


def test_ranges_that_the_profiler_did_not_see_say_nothing():
    found = ProfilerClock(lambda: 5)
    found.opens("ProfilerStep#1", lambda: None)
    assert found.line([]) is None
    event = SimpleNamespace(
        name=lambda: "ProfilerStep#1", start_ns=lambda: 105, duration_ns=lambda: 9
    )
    assert found.line([event]).offset_ns(105) == -100  # its end is not known here
