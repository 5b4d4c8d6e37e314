"""Of a trace that was cut off only what is whole counts: as much as the whole trace says of it."""

import gzip
import shutil
from itertools import pairwise
from pathlib import Path

import pytest

from fapool.analysis.activities.breakdown import break_down
from fapool.analysis.activities.cut import known_until_ns
from fapool.analysis.deep.breakdown import deep
from fapool.errors import StoreError
from fapool.traces import read, read_folder
from tests.traces import forms
from tests.traces.forms import event, kernel, launch, step

TRACES = Path(__file__).parents[2] / "data" / "h100-graphs-fapool-1-1" / "trace"
STEPS = 9


def cut(folder: Path, share: float, *, zipped: bool = False) -> Path:
    """A copy of real traces, of rank 0's only the first part of the text, or of the file."""
    shutil.copytree(TRACES, folder, dirs_exist_ok=True)
    (path,) = folder.glob("rank0*")
    data = path.read_bytes() if zipped else gzip.decompress(path.read_bytes())
    data = data[: int(len(data) * share)]
    path.write_bytes(data if zipped else gzip.compress(data))
    return folder


def of_rank_0(steps, columns) -> list[list[int]]:
    return steps.loc[steps["rank"] == 0, columns].to_numpy().tolist()


def test_steps_before_the_cut_are_those_of_the_whole_trace(tmp_path):
    columns = ["step", "wall_ns", "compute_ns", "copies_ns", "idle_ns"]
    deep_columns = ["step", "wall_ns", "compute_ns"]
    whole = read_folder(TRACES).traces
    shallow, at_depth = break_down(whole).steps, deep(whole).parted.steps
    found = []
    for share in (0.5, 0.7, 0.8, 0.9, 0.96):
        traces = read_folder(cut(tmp_path / f"{share}", share)).traces
        parted = break_down(traces)
        kept = of_rank_0(parted.steps, columns)
        assert kept == of_rank_0(shallow, columns)[: len(kept)]
        kept_deep = of_rank_0(deep(traces).parted.steps, deep_columns)
        assert kept_deep == of_rank_0(at_depth, deep_columns)[: len(kept)]
        assert (parted.steps["rank"] == 1).sum() == STEPS
        said = f"rank 0: {len(kept)} of its steps are whole; {STEPS - len(kept)} reach past"
        assert len(kept) == STEPS or any(said in note for note in parted.notes)
        found.append(len(kept))
    assert all(a <= b for a, b in pairwise(found))
    assert min(found) < STEPS - 1 and max(found) > 0


@pytest.mark.parametrize(("share", "zipped"), [(0.08, False), (0.5, True)])
def test_a_rank_of_whose_device_nothing_is_left_has_no_steps(tmp_path, share, zipped):
    traces = read_folder(cut(tmp_path, share, zipped=zipped), ops=None).traces
    parted = break_down(traces)
    if not zipped:
        assert not traces[0].kernels.num_rows
    assert of_rank_0(parted.steps, ["step"]) == []
    assert of_rank_0(deep(traces).parted.steps, ["step"]) == []
    assert not any("operators count as computation" in note for note in parted.notes)
    with pytest.raises(StoreError, match="0 of its steps are whole"):
        deep(traces[:1])
    assert break_down(traces[:1]).steps.empty


def test_a_step_is_whole_when_a_later_launch_has_its_kernel(tmp_path):
    steps = [step(1, 0, 100), step(2, 100, 200), step(3, 200, 300)]
    calls = [launch(n, at, at + 1) for n, at in enumerate((10, 110, 210))]
    ran = [kernel(at, at + 50, correlation=n) for n, at in enumerate((20, 120, 220))]
    events = [*steps, calls[0], ran[0], calls[1], ran[1], calls[2], ran[2]]
    for left, expected in {6: [], 7: [1], 8: [1], 9: [1, 2, 3]}.items():
        text = forms.kineto(events[:left])
        text = text if left == len(events) else text[: text.index("\n  ],")]
        trace = read(forms.write(tmp_path / "a.json", text))
        assert trace.cut_off == (left < len(events))
        assert break_down([trace]).steps["step"].tolist() == expected


def test_ranks_of_cpus_are_known_as_far_as_their_operators(tmp_path):
    events = [step(1, 0, 100), event("aten::mm", "cpu_op", 10, 20)]
    events += [step(2, 100, 200), event("aten::mm", "cpu_op", 150, 160)]
    text = forms.kineto(events, {"schemaVersion": 1, "baseTimeNanoseconds": forms.BASE_NS})
    trace = read(forms.write(tmp_path / "a.json", text[: text.index("\n  ],")]), ops=True)
    assert known_until_ns(trace) == trace.base_ns + 150
    assert break_down([trace]).steps["step"].tolist() == [1]
