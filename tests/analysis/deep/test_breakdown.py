"""The breakdown by kernels: exact, equal to sums made by hand, and to HTA's where they compare."""

import gzip
from pathlib import Path

import numpy as np
import orjson
import pandas as pd
import pytest

from fapool.analysis import intervals
from fapool.analysis.breakdown import PARTS
from fapool.analysis.deep.breakdown import deep
from fapool.analysis.deep.events import serial
from fapool.errors import StoreError
from fapool.traces import read_folder
from tests.analysis.made_traces import BASE_NS, Made

GPU_RUN = Path(__file__).parents[2] / "data/h200-fapool-1-1"


@pytest.fixture(scope="module")
def gpu():
    return deep(read_folder(GPU_RUN).traces)


def covered(pairs, start: int, end: int) -> np.ndarray:
    """Whether each nanosecond of [start, end) lies in one of the pairs."""
    held = np.zeros(end - start, bool)
    for first, last in pairs:
        held[max(first - start, 0) : max(last - start, 0)] = True
    return held


@pytest.mark.parametrize("rank", [0, 1])
def test_parts_of_a_gpu_step_are_those_of_a_count_of_its_nanoseconds(gpu, rank):
    (path,) = (GPU_RUN / "trace").glob(f"rank{rank}.*")
    trace = orjson.loads(gzip.decompress(path.read_bytes()))
    base = trace["baseTimeNanoseconds"]
    host = [
        (base + round(1000 * e["ts"]), base + round(1000 * (e["ts"] + e["dur"])))
        for e in trace["traceEvents"]
        if e.get("args", {}).get("category") == "management"
    ]
    own = gpu.kernels[gpu.kernels["rank"] == rank]
    for step in gpu.parted.steps[gpu.parted.steps["rank"] == rank].tail(1).itertuples():
        at = gpu_borders(gpu, rank, step.step)
        held = {
            category: covered(
                own.loc[own["category"] == category, ["start_ns", "end_ns"]].values, *at
            )
            for category in ("compute", "communication", "management")
        }
        held["management"] |= covered(host, *at)
        left = np.ones(at[1] - at[0], bool)
        for category in ("compute", "communication", "management"):
            part = held[category] & left
            # the trace's decimals are rounded here, and parted exactly there
            found_ns = getattr(step, f"{category}_ns")
            if category == "communication":  # and what of it is waiting
                found_ns += step.synchronization_ns
            assert abs(found_ns - part.sum()) <= 2 * len(host)
            left &= ~part
        assert abs(step.idle_ns - left.sum()) <= 2 * len(host)


def gpu_borders(gpu, rank: int, step: int) -> tuple[int, int]:
    """Where a step's own kernels begin and end, from the neighbours' walls."""
    steps = gpu.parted.steps[gpu.parted.steps["rank"] == rank]
    (path,) = (GPU_RUN / "trace").glob(f"rank{rank}.*")
    trace = orjson.loads(gzip.decompress(path.read_bytes()))
    ends = {
        e["name"]: trace["baseTimeNanoseconds"] + round(1000 * (e["ts"] + e["dur"]))
        for e in trace["traceEvents"]
        if e.get("cat") == "user_annotation" and e["name"].startswith("ProfilerStep")
    }
    wall = steps.loc[steps["step"] == step, "wall_ns"].item()
    end = ends[f"ProfilerStep#{step}"]  # here the host waited for the device
    return end - wall, end


def test_the_busy_time_of_a_gpu_is_hta_s(gpu):
    """get_temporal_breakdown of traceinsight 0.6.1, include_last_profiler_step=True, in us, under
    HTA_DISABLE_NS_ROUNDING=1."""
    idle, span = {0: 59589.330383, 1: 21689.253375}, {0: 83820.964383, 1: 82750.410375}
    compute = {0: 9479.101, 1: 16875.131}
    for rank, own in gpu.kernels.groupby("rank"):
        busy = intervals.total(intervals.union(own[["start_ns", "end_ns"]])) / 1e3
        assert busy == pytest.approx(span[rank] - idle[rank], abs=1e-3)
        # theirs leaves out copies, ours does what the span says: no exchange runs by copies here
        local = own[(own["category"] != "communication") & (own["kind"] == "kernel")]
        ours = intervals.total(intervals.union(local[["start_ns", "end_ns"]])) / 1e3
        assert ours == pytest.approx(compute[rank], abs=1e-3)


def test_no_kernel_of_the_gpu_traces_speaks_against_its_span(gpu):
    assert gpu.disagreements.empty
    assert gpu.unattributed["count"].sum() == (gpu.kernels["why"] != "").sum() > 0


def test_names_that_speak_against_their_span_are_listed_and_fused_ones_are_expected(tmp_path):
    made = Made()
    made.step(0, 0, 100)
    made.span("ffn", 5, 10)
    made.span("send_query", 10, 20, "communication", channel="0>1", sequence=1)
    for at, name in (
        (6, "ncclDevKernel_SendRecv"),
        (7, "collect"),
        (12, "nvjet_gemm"),
        (13, "ask"),
    ):
        made.launch(at, at)
        made.kernel(name, 10 * at, 10 * at + 5, at)
    found = deep([made.read(tmp_path)]).disagreements.set_index("name")
    assert found["expected"].astype(bool).to_dict() == {
        "ncclDevKernel_SendRecv": False,
        "collect": True,
        "nvjet_gemm": False,
    }
    assert (found["ns"] == 5).all()


def test_a_kernel_that_came_up_early_counts_from_the_end_of_the_one_before():
    rows = [(0, 7, 0, 50), (0, 7, 20, 70), (0, 7, 30, 60), (0, 9, 10, 40)]
    kernels = pd.DataFrame(rows, columns=["device", "stream", "start_ns", "end_ns"])
    found = serial(kernels).sort_index()
    assert found["start_ns"].tolist() == [0, 50, 70, 10]
    assert found["end_ns"].tolist() == [50, 70, 70, 40]


def soup(seed: int) -> tuple[Made, list[tuple[int, int, str]]]:
    """Kernels on two streams, some overlapping, some without a span or a launch, and host spans;
    and what each of them counts as."""
    rng = np.random.default_rng(seed)
    made, counted = Made(), []
    made.step(0, 0, 40)
    phases = [("ffn", "compute"), ("drain", "communication"), ("lease", "management"), ("", "")]
    reach = {7: 0, 9: 0}
    for number in range(30):
        phase, category = phases[rng.integers(4)]
        if phase:
            made.span(phase, number + 1, number + 2, category)
        if category == "management":
            counted.append((number + 1, number + 2, category))
        stream, length = 7 if number % 3 else 9, int(rng.integers(1, 40))
        start = max(int(rng.integers(40, 400)), reach[stream] - 5)
        made.kernel("spin", start, start + length, number, stream)
        if rng.random() > 0.1:
            made.launch(number + 1, number)
        else:
            category = ""
        counted.append((start, start + length, category or "compute"))
        reach[stream] = max(reach[stream], start + length)
    return made, counted


@pytest.mark.parametrize("seed", range(6))
def test_a_soup_of_kernels_is_parted_as_a_count_of_nanoseconds_says(tmp_path, seed):
    made, counted = soup(seed)
    found = deep([made.read(tmp_path)])
    (step,) = found.parted.steps.itertuples()
    left = np.ones(step.wall_ns, bool)
    ordered = sorted(found.kernels.itertuples(), key=lambda kernel: kernel.start_ns)
    reach, rows = {7: 0, 9: 0}, [row for row in counted if row[2] == "management" and row[1] < 41]
    for kernel in ordered:  # one after the other on each stream
        start, end = kernel.start_ns - BASE_NS, kernel.end_ns - BASE_NS
        first, reach[kernel.stream] = (
            max(start, reach[kernel.stream]),
            max(end, reach[kernel.stream]),
        )
        own = [c for s, e, c in counted if (s, e) == (start, end)]
        assert kernel.category in own
        rows.append((first, max(first, end), kernel.category))
    for category in ("compute", "communication", "synchronization", "management"):
        held = covered([row[:2] for row in rows if row[2] == category], 0, step.wall_ns) & left
        assert getattr(step, f"{category}_ns") == held.sum()
        left &= ~held
    assert step.idle_ns == left.sum()
    lost = found.kernels["why"] != ""
    assert found.unattributed["count"].sum() == lost.sum() > 0


def test_a_rank_without_steps_is_left_out_and_said(tmp_path):
    base, pool = Made(0), Made(1)
    base.step(0, 0, 10)
    base.span("ffn", 1, 5)
    pool.span("ffn", 1, 5)
    found = deep([base.read(tmp_path), pool.read(tmp_path)])
    assert found.parted.steps["rank"].tolist() == [0]
    assert "rank 1 is left out: " in found.notes[0]
    assert found.kernels.empty
    with pytest.raises(StoreError, match="no profiler steps"):
        deep([pool.read(tmp_path)])


def two_ranks(folder: Path):
    """Rank 0 asks in a replay; rank 1 waits from 20, but the query is posted at 60."""
    base, pool = Made(0), Made(1, role="pool")
    base.graph(0, [("send_query", 0, "0>1", 3, ["ask"]), ("ffn", 0, "", -1, ["gemm", "gemm"])])
    pool.graph(0, [("wait_query", 0, "0>1", 3, ["queries", "store"])])
    for made in (base, pool):
        made.step(8, 0, 10)
        made.replay(0, 5, 1)
    base.kernel("ask", 60, 64, 1)
    base.kernel("gemm", 66, 80, 1)
    base.kernel("gemm", 82, 90, 1)
    pool.kernel("queries", 20, 70, 1)
    pool.kernel("store", 72, 75, 1)
    return [base.read(folder), pool.read(folder)]


def test_a_wait_is_split_at_the_sender_s_kernel_across_ranks(tmp_path):
    found = deep(two_ranks(tmp_path))
    base, pool = found.parted.steps.itertuples()
    assert (base.wall_ns, base.compute_ns, base.communication_ns, base.idle_ns) == (90, 22, 4, 64)
    assert (pool.wall_ns, pool.synchronization_ns, pool.communication_ns) == (75, 40, 13)
    assert (pool.idle_ns, pool.compute_ns) == (22, 0)
    assert (found.parted.exchanges, found.parted.unmatched) == (1, 0)
    assert found.replays[["rank", "step", "replays", "sampled"]].values.tolist() == [
        [0, 8, 1, 0],
        [1, 8, 1, 0],
    ]


def test_gaps_between_kernels_are_inside_a_span_as_the_live_level_has_it(tmp_path):
    found = deep(two_ranks(tmp_path)).reached.steps
    assert found["compute_ns"].tolist() == [26, 0]  # 64 to 90
    assert found["communication_ns"].tolist() == [4, 15]  # 60 to 64; 60 to 75


def test_times_are_put_on_the_clock_of_rank_0(tmp_path):
    early = deep(two_ranks(tmp_path), shift_ns={0: -15})
    base, pool = early.parted.steps.itertuples()
    assert base.wall_ns == 90
    assert pool.synchronization_ns == 25
    assert early.kernels.groupby("rank")["start_ns"].min().tolist() == [BASE_NS + 45, BASE_NS + 20]


def test_a_receive_that_was_posted_ahead_waits_for_its_sender(tmp_path):
    base, pool = Made(0), Made(1)
    for made in (base, pool):
        made.step(0, 0, 40)
    base.span("send_query", 20, 25, "communication", channel="0>1", sequence=7, layer=2)
    pool.span("post", 5, 8, "communication", layer=2)
    pool.span("wait_query", 10, 15, "communication", channel="0>1", sequence=7, layer=2)
    for made, at, start, end in ((base, 21, 60, 90), (pool, 6, 10, 90)):
        made.launch(at, 1)
        made.kernel("ncclDevKernel_SendRecv", start, end, 1, stream=9)
    found = deep([base.read(tmp_path), pool.read(tmp_path)])
    pool = found.parted.steps.iloc[1]
    assert (pool["synchronization_ns"], pool["communication_ns"]) == (50, 30)
    assert found.parted.unmatched == 0


def test_a_receive_that_was_posted_after_its_question_waits_for_the_answer(tmp_path):
    """The base asks 10 to 12 and receives from 12 on; the pool answers at 90; all is there at 100.

    Before, the receive was launched by the span of the send, and was transfer from 12 on.
    """
    base, pool = Made(0), Made(1)
    for made in (base, pool):
        made.step(0, 0, 40)
    asks, answers = {"channel": "0>1", "sequence": 7}, {"channel": "1>0", "sequence": 7}
    base.span("send_query", 5, 7, "communication", layer=2, **asks)
    base.span("post", 7, 9, "communication", layer=2)
    base.span("wait_partials", 10, 38, "communication", layer=2, **answers)
    pool.span("wait_query", 5, 8, "communication", layer=2, **asks)
    pool.span("attend_partial", 9, 11, "compute", layer=2)
    pool.span("send_partials", 12, 15, "communication", layer=2, **answers)
    kernels = [(base, 6, 10, 12), (base, 8, 12, 100)]
    kernels += [(pool, 6, 10, 12), (pool, 10, 12, 90), (pool, 13, 90, 100)]
    for number, (made, at, start, end) in enumerate(kernels):
        made.launch(at, number)
        name = "attend" if at == 10 else "ncclDevKernel_SendRecv"
        made.kernel(name, start, end, number, stream=9)
    found = deep([base.read(tmp_path), pool.read(tmp_path)])
    base = found.parted.steps.iloc[0]
    assert (base["synchronization_ns"], base["communication_ns"]) == (90 - 12, 2 + 10)
    assert (found.parted.exchanges, found.parted.unmatched) == (2, 0)


def test_ranks_that_swap_by_one_kernel_wait_until_the_last_has_begun(tmp_path):
    """Three mates begin at 20, 60 and 45; each sends to both others, and all are done at 80."""
    traces, starts = [], (20, 60, 45)
    for rank, start in enumerate(starts):
        made, others = Made(rank), [other for other in range(3) if other != rank]
        made.step(0, 0, 40)
        about = {"sequence": 4, "layer": 1}
        there = ",".join(f"{rank}>{other}:mates" for other in others)
        back = ",".join(f"{other}>{rank}:mates" for other in others)
        made.span("send_partials", 5, 12, "communication", channel=there, **about)
        made.span("post", 7, 10, "communication", layer=1)
        made.span("wait_partials", 13, 15, "communication", channel=back, **about)
        made.launch(8, 1)
        made.kernel("ncclDevKernel_SendRecv", start, 80, 1, stream=9)
        traces.append(made.read(tmp_path))
    found = deep(traces).parted
    steps = found.steps.set_index("rank")
    for rank, start in enumerate(starts):
        assert steps.loc[rank, "synchronization_ns"] == max(starts) - start
        assert steps.loc[rank, "communication_ns"] == 80 - max(starts)
    assert (found.exchanges, found.unmatched) == (6, 0)


def test_steps_end_where_the_device_gets_to_their_borders(tmp_path):
    made = Made()
    for number, start in ((3, 0), (4, 12)):
        made.step(number, start, start + 8)
        made.span("ffn", start + 1, start + 5)
        made.launch(start + 2, number)
        made.kernel("gemm", 10 * start + 20, 10 * start + 60, number)
    steps = deep([made.read(tmp_path)]).parted.steps
    assert steps["step"].tolist() == [3, 4]
    assert steps["wall_ns"].tolist() == [60, 120]
    assert steps["compute_ns"].tolist() == [40, 40]
    assert (steps[PARTS].sum(axis=1) == steps["wall_ns"]).all()


@pytest.mark.parametrize("graphs", [False, True], ids=["launched", "replayed"])
@pytest.mark.parametrize("arrivals", [(20, 90), (90, 20), (20, 90, 60)])
def test_a_wait_for_several_senders_is_synchronization_until_the_last(tmp_path, arrivals, graphs):
    """Ranks 1, 2, ... send at `arrivals`; the base's one kernel waits for all, from 10 to 100."""
    channels = [f"{rank}>0" for rank in range(1, len(arrivals) + 1)]
    parts = [(0, "wait_partials", ",".join(channels), "collect", 10, 100)]
    for rank, at in enumerate(arrivals, 1):
        parts.append((rank, "send_partials", channels[rank - 1], "answer", at, at + 2))
    traces = []
    for rank, phase, channel, name, start, end in parts:
        made = Made(rank)
        made.step(0, 0, 40)
        if graphs:
            made.graph(0, [(phase, 2, channel, 7, [name])])
            made.graphs[0]["runs"][0] |= {"channels": channel.split(","), "bytes": []}
            made.replay(0, 6, 1)
        else:
            about = {"channel": channel, "sequence": 7, "layer": 2}
            made.span(phase, 5, 9, "communication", **about)
            made.launch(6, 1)
        made.kernel(name, start, end, 1)
        traces.append(made.read(tmp_path))
    found = deep(traces)
    # by `reached` a post that the host launches begins with the host's span, at 5
    for parted in (found.parted, found.reached) if graphs else (found.parted,):
        base = parted.steps.set_index("rank").loc[0]
        assert base["communication_ns"] == 100 - max(arrivals)
        assert base["synchronization_ns"] == max(arrivals) - 10
        assert (parted.exchanges, parted.unmatched) == (len(arrivals), 0)


def test_a_kernel_whose_launch_is_lost_does_not_hold_up_those_before_it(tmp_path):
    made = Made()
    made.step(0, 0, 100)
    made.span("ffn", 5, 30)
    made.launch(6, 6)
    made.launch(16, 16)
    made.kernel("first", 10, 20, 6)
    made.kernel("second", 25, 40, 16)
    made.kernel("lost", 60, 70, 99)
    (row,) = deep([made.read(tmp_path)]).reached.steps.to_dict("records")
    assert row["compute_ns"] == 40 - 5  # "second" reaches to the end of "first"
