"""A torch.profiler window over chosen steps: one trace file per rank.

The files bear the names, step annotations and `distributedInfo` that TensorBoard's plugin and HTA
look for. Set KINETO_LOG_LEVEL=6 before torch is imported to keep Kineto's notices off stderr.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import orjson
import torch
import torch.distributed as dist
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function

from fapool.instrument.alignment import Line
from fapool.instrument.profiler_clock import ProfilerClock
from fapool.instrument.recorder import Recorder
from fapool.store import RunFolder


class ProfilerWindow:
    """Profiles steps [first_step, first_step + num_steps) of one rank; none if `num_steps` is 0.

    Steps are counted by the caller, who brackets each of them with `step_begins` and `step_ends`,
    and calls `close` when nothing is measured any more. Where the recorder calls `step_ends` at its
    borders, a step of the trace ends where the recorder's does, and so the next one begins there.
    Stopping takes about a millisecond and falls between two steps, or with `stop_on_close` after
    the last; writing the file takes longer and waits for `close`. No message of gloo may be under
    way when the profiler stops: its threads would write to what is gone.

    The process's first profiler costs more than a second, so that the constructor starts and ends
    an empty one. `record_shapes` is on: without it torch drops the labels of our spans. After
    `close`, `line` is what to add to the trace's times to get the recorder's clock; None before.
    """

    def __init__(
        self,
        folder: RunFolder,
        rank: int,
        world: int,
        recorder: Recorder,
        first_step: int,
        num_steps: int,
        about: dict[str, Any] | None = None,
        *,
        stop_on_close: bool = False,
    ) -> None:
        self.folder, self.rank, self.world, self.recorder = folder, rank, world, recorder
        self.first_step, self.end_step = first_step, first_step + num_steps
        self.about = {"rank": rank, "unix_offset_ns": recorder.unix_offset_ns} | (about or {})
        self._stop_on_close = stop_on_close
        self._profile: profile | None = None
        self._annotation: record_function | None = None
        self._name = ""  # of the annotation
        self._clock = ProfilerClock(recorder.clock)
        self.line: Line | None = None
        self._unix_ns = 0
        if num_steps:
            with _new_profile():
                pass

    def step_begins(self, step: int) -> None:
        """Before step `step`: starts the profiler if it is the first one chosen."""
        if not self.first_step <= step < self.end_step:
            return
        if self._profile is None:
            self._start()
        self._name = f"ProfilerStep#{step}"
        self._annotation = record_function(self._name)
        self._clock.opens(self._name, self._annotation.__enter__)

    def step_ends(self, step: int) -> None:
        """At the end of step `step`: stops the profiler if it was the last one chosen."""
        if self._annotation is None:
            return
        self._leave()
        if step == self.end_step - 1 and not self._stop_on_close:
            self._stop()

    def close(self) -> Path | None:
        """Write the trace, of as many of the chosen steps as were taken; None if there were none.

        A second call does nothing.
        """
        if self._profile is None:
            return None
        if self._annotation is not None:  # an error left the step open
            self._leave()
        if self.recorder.profiling:
            self._stop()
        seen = self._profile.profiler.kineto_results.events()
        # A range's shadow on the device bears its name, too, and is when the device got there.
        self.line = self._clock.line(e for e in seen if e.device_type() == DeviceType.CPU)
        path = self.folder.trace(self.rank, self._unix_ns)
        path.parent.mkdir(exist_ok=True)
        scratch = path.with_name(f".{os.getpid()}.{path.name}")
        self._profile.export_chrome_trace(str(scratch))
        scratch.replace(path)
        self._profile = None
        self.end_step = self.first_step
        return path

    def _leave(self) -> None:
        annotation, self._annotation = self._annotation, None
        self._clock.closes(self._name, lambda: annotation.__exit__(None, None, None))

    def _start(self) -> None:
        self._unix_ns = time.time_ns()
        self._profile = _new_profile()
        self._profile.start()
        self._profile.add_metadata_json("fapool", orjson.dumps(self.about).decode())
        if not dist.is_initialized():  # otherwise torch writes it, with its groups
            info = {"backend": "none", "rank": self.rank, "world_size": self.world}
            self._profile.add_metadata_json("distributedInfo", orjson.dumps(info).decode())
        self.recorder.profiling = True

    def _stop(self) -> None:
        self.recorder.profiling = False
        assert self._profile is not None
        self._profile.stop()


def _new_profile() -> profile:
    activities = [ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(ProfilerActivity.CUDA)
    return profile(activities=activities, record_shapes=True, acc_events=True)
