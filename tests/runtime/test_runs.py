"""Whole runs on four ranks: what the folder says of them adds up."""

import time
from pathlib import Path

import pandas as pd
import pytest

from fapool.analysis.breakdown import PARTS, breakdown
from fapool.analysis.deep.agreement import traced_run
from fapool.analysis.kv import per_request
from fapool.analysis.load import load
from fapool.analysis.steps.causes import causes
from fapool.analysis.study import study
from fapool.forecast.memory import footprint
from fapool.phases import TRACED, Category, Owner, Role
from fapool.spec import Capture, FAPool, Helix, Model, RunSpec, Static, TraceWorkload, Workload
from fapool.store import Run, RunFolder, Store
from fapool.topology import home_deal, lease_width, lent_deal, place
from tests.runtime.crew import Crew

pytestmark = pytest.mark.ranks

LENGTHS = ((30, 4), (5, 3), (16, 6), (9, 12), (40, 1), (1, 2))
MODEL = Model(
    layers=4, hidden=24, heads=4, kv_heads=2, head_dim=8, ffn=36, vocab=53, dtype="float32"
)
PLANS = [
    Static(tp=4),
    Static(tp=2, pp=2),
    Static(tp=1, pp=4),
    Helix(kvp=2, tp=2),
    FAPool(base=1, pool=3, threshold=12),
    FAPool(base=2, pool=2, threshold=12),
    FAPool(base=1, pool=3, threshold=12, kv="shared"),
    FAPool(base=1, pool=3, threshold=12, reduction="hierarchical"),
]


def make_spec(plan, folder: Path, **changes) -> RunSpec:
    lengths = folder / "lengths.csv"
    rows = pd.DataFrame(LENGTHS, columns=["ContextTokens", "GeneratedTokens"])
    rows.to_csv(lengths, index=False)
    work = TraceWorkload(path=lengths, sample=len(LENGTHS), batch=3)
    fields = {"model": MODEL, "plan": plan, "workload": work, "device": "cpu", "block": 4}
    fields |= {"prefill_chunk": 8, "repeats": 2, "capture": Capture(live_hz=20)}
    return RunSpec(**(fields | changes))


def run_on(crew: Crew, spec: RunSpec) -> tuple[Run, list[list[dict]]]:
    folder = Store().create(spec)
    came = crew.ask("run", spec=spec.to_json(), folder=str(folder.path))
    endings = {ending for ending, _ in filter(None, came)}
    assert len(endings) == 1
    return folder.finish(endings.pop()), [samples for _, samples in filter(None, came)]


@pytest.fixture(params=PLANS, ids=str)
def finished(request, crew, profiles, tmp_path) -> tuple[Run, list[list[dict]]]:
    return run_on(crew, make_spec(request.param, tmp_path))


def test_a_run_adds_up(finished):
    run, samples = finished
    assert run.status.state == "finished"
    assert run.correctness["passed"] is True
    tables = load(run)  # steps share their borders, or this raises
    check_breakdown(tables)
    check_labels(tables)
    check_requests(tables)
    check_memory(tables)
    check_kv(tables)
    check_samples(tables, samples)
    check_causes(run)


def check_breakdown(tables) -> None:
    parted = breakdown(tables)
    wall = (tables.steps["end_ns"] - tables.steps["start_ns"]).sum()
    assert parted.steps[PARTS].to_numpy().sum() == wall
    assert parted.unmatched == 0
    assert parted.exchanges > 0
    counted = tables.steps.groupby(["repeat", "rank"])["step"].agg(list)
    assert len(counted) == 2 * tables.spec.plan.world
    assert all(steps == list(range(len(counted.iloc[0]))) for steps in counted)


def check_causes(run) -> None:
    """Waits sum to synchronization, paths and replays to their steps, or this raises."""
    why = causes(study(run))
    assert why.critical.path["ms"].sum() == pytest.approx(why.critical.wall_ms)
    assert why.clocks.words == "all ranks read one clock"  # and none of them is impossible
    assert not (why.stragglers["rank"] == why.stragglers["awaited"]).any()


def check_labels(tables) -> None:
    """Admission comes before any rank's first span; micro-batches are told apart by number."""
    for repeat, rows in tables.requests.groupby("repeat"):
        spans = tables.events[tables.events["repeat"] == repeat]
        embeds = spans.loc[spans["phase"] == "embed", "start_ns"].min()
        assert rows["admitted_ns"].min() < embeds
    attends = tables.events[tables.events["phase"] == "attend"]
    most = tables.spec.plan.pp if isinstance(tables.spec.plan, Static) else 0
    assert set(attends["micro_batch"]) == (set(range(min(most, 3))) or {-1})
    if isinstance(tables.spec.plan, FAPool):  # what a pool rank does with new keys is no idling
        decode = set(tables.steps.loc[tables.steps["kind"] == "decode", "step"])
        events = tables.events[tables.events["step"].isin(decode)]
        at_pool = events[events["rank"] >= tables.spec.plan.base]
        counted = at_pool.groupby("phase")["step"].count()
        assert counted["append_kv"] == counted["attend_partial"] > 0


def check_requests(tables) -> None:
    asked = [(i, c, o) for i, (c, o) in enumerate(LENGTHS)]
    for _, rows in tables.requests.groupby("repeat"):
        found = rows.sort_values("request")[["request", "context", "output"]]
        assert [tuple(row) for row in found.to_numpy().tolist()] == asked
        assert (rows["admitted_ns"] <= rows["first_token_ns"]).all()
        assert (rows["first_token_ns"] <= rows["last_token_ns"]).all()
        alone = rows["output"] == 1
        assert ((rows["first_token_ns"] == rows["last_token_ns"]) == alone).all()
        leased = dict(zip(rows["request"], rows["leased_at"], strict=True))
        pooled = {i: (0 if c > 12 else 12) if c + o - 1 > 12 else -1 for i, c, o in asked}
        assert leased == (
            pooled if isinstance(tables.spec.plan, FAPool) else dict.fromkeys(pooled, -1)
        )


def check_memory(tables) -> None:
    forecast = footprint(tables.spec)
    for rank, rows in tables.memory.groupby("rank"):
        held = rows.groupby("owner")["bytes"]
        for owner in (Owner.WEIGHTS, Owner.KV):
            assert set(held.get_group(owner)) == {forecast[rank][owner]}
        assert held.get_group(Owner.KV_USED).max() <= forecast[rank][Owner.KV]
        buffers = held.get_group(Owner.BUFFERS).max()
        alone = isinstance(tables.spec.plan, Helix) or tables.spec.plan == Static(tp=4)
        assert (buffers == 0) == alone  # collectives there, and nothing else
        assert buffers <= forecast[rank][Owner.BUFFERS]


def check_kv(tables) -> None:
    """Requests have at their peaks what deals say; what those of a step have is what it has."""
    spec, keys = tables.spec, ["repeat", "rank", "step"]
    held = tables.kv.groupby(keys)[["tokens", "bytes"]].sum()
    steps = tables.steps.set_index(keys)["kv_tokens"]
    assert (held["tokens"] == steps[held.index]).all()
    used = tables.memory[tables.memory["owner"] == Owner.KV_USED].set_index(keys)["bytes"]
    assert (held["bytes"] == used[held.index]).all()
    most = steps.groupby(["repeat", "rank"]).max()
    assert (held.groupby(["repeat", "rank"])["tokens"].max() == most[most > 0]).all()
    at_end = {i: c + o - 1 for i, (c, o) in enumerate(LENGTHS)}
    peak = per_request(tables).set_index(["repeat", "rank", "request"])["tokens"]
    for (_, rank, request), tokens in peak.items():
        length, at = at_end[request], place(spec, rank)
        deal = home_deal(spec)
        if isinstance(spec.plan, FAPool) and length > 12:
            if at.role is Role.BASE:  # until it was leased, if it did not begin so
                assert tokens == 12
                continue
            deal = lent_deal(spec, range(lease_width(spec)))
        assert tokens == deal.tokens(length, spec.block, at.keeper)
    full = tables.kv["tokens"] - tables.kv["last_tokens"]
    assert (full % spec.block == 0).all()
    assert (tables.kv["blocks"] * spec.block >= tables.kv["tokens"]).all()


def check_samples(tables, samples: list[list[dict]]) -> None:
    for rank, said in enumerate(samples):
        assert [sample["sequence"] for sample in said] == list(range(1, len(said) + 1))
        assert said[0]["stage"] == "loading"
        last = said[-1]
        assert last["stage"] == "finished"
        steps = tables.steps[tables.steps["rank"] == rank]
        assert last["step"] == last["steps"] == len(steps)
        assert last["wall_ns"] == (steps["end_ns"] - steps["start_ns"]).sum()
        assert sum(last["category_ns"].values()) == last["wall_ns"]
        assert set(last["category_ns"]) == set(Category)


@pytest.mark.parametrize(
    "plan", [Static(tp=2, pp=2), FAPool(base=1, pool=3, threshold=12)], ids=str
)
def test_stop_ends_all_ranks_with_the_step_that_they_are_in(crew, profiles, tmp_path, plan):
    work = Workload(batch=2, context=8, output=100_000)
    spec = make_spec(plan, tmp_path, workload=work, warmup=0)
    folder = Store().create(spec)
    job = crew.post("run", spec=spec.to_json(), folder=str(folder.path))
    wait_for(crew, folder, "running", 5)
    folder.stop_file.touch()
    touched_ns = time.time_ns()
    endings = {ending for ending, _ in crew.take(job)}
    assert endings == {"stopped"}
    run = folder.finish("stopped")
    assert run.status.state == "stopped"
    steps = load(run).steps
    assert len(set(steps.groupby("rank")["step"].max())) == 1
    first = steps[steps["rank"] == 0]
    clocks_ns = 5_000_000
    assert first["start_ns"].max() <= touched_ns + clocks_ns
    assert run.table("requests").empty  # none got to its end


def wait_for(crew: Crew, folder: RunFolder, stage: str, steps: int) -> None:
    deadline = time.monotonic() + 60
    while True:
        at, done = crew.progress(folder.path)
        if at == stage and done >= steps:
            return
        assert time.monotonic() < deadline, f"still {at}, {done} steps done"
        time.sleep(0.02)


def test_stop_before_anything_was_measured_leaves_a_folder_that_says_so(crew, profiles, tmp_path):
    spec = make_spec(FAPool(base=2, pool=2, threshold=12), tmp_path)
    folder = Store().create(spec)
    folder.stop_file.touch()
    endings = {
        ending for ending, _ in crew.ask("run", spec=spec.to_json(), folder=str(folder.path))
    }
    assert endings == {"stopped"}
    run = folder.finish("stopped")
    assert run.correctness["passed"] is False
    assert run.table("steps").empty


def test_messages_of_the_check_are_no_buffers_of_the_workload(crew, profiles, tmp_path):
    """Nobody is leased: what is held are the buffers of both links, made for the check's 3 rows."""
    work = Workload(batch=2, context=8, output=2)
    spec = make_spec(FAPool(base=1, pool=3, threshold=12), tmp_path, workload=work)
    run, _ = run_on(crew, spec)
    memory = run.table("memory")
    asked, answered = (4 + 2 * 2) * 8 * 4, 4 * (8 * 4 + 4)  # bytes of a row, fp32
    expected = [2 * 3 * (asked + n * answered) for n in (3, 1, 1, 1)]
    buffers = memory[memory["owner"] == Owner.BUFFERS].groupby("rank")["bytes"]
    assert [set(held) for _, held in buffers] == [{bytes_} for bytes_ in expected]


CROSSING = {
    "sharded": (FAPool(base=2, pool=2, threshold=12), 1),
    "shared": (FAPool(base=1, pool=3, threshold=12, kv="shared"), 3),
    "hierarchical": (FAPool(base=1, pool=3, threshold=12, reduction="hierarchical"), 1),
}


@pytest.mark.parametrize(("plan", "copies"), CROSSING.values(), ids=CROSSING)
def test_keys_that_move_together_are_within_the_forecast(crew, profiles, tmp_path, plan, copies):
    """Three requests outgrow the threshold in the same decode step."""
    work = Workload(batch=3, context=10, output=8)
    run, _ = run_on(crew, make_spec(plan, tmp_path, workload=work, repeats=1))
    forecast, memory = footprint(run.spec), run.table("memory")
    buffers = memory[memory["owner"] == Owner.BUFFERS]
    peak = buffers.groupby("rank")["bytes"].max()
    assert all(peak[rank] <= forecast[rank][Owner.BUFFERS] for rank in range(4))
    moved = peak - buffers[buffers["step"] == 0].set_index("rank")["bytes"]
    token = 2 * 4 * (2 // plan.base) * 8 * 4  # k and v, layers, KV heads of a base, dim, fp32
    assert set(moved[: plan.base]) == {3 * 12 * token * copies}


def test_spans_can_be_switched_off_and_steps_stay(crew, profiles, tmp_path):
    capture = Capture(spans=False, memory=False)
    spec = make_spec(FAPool(base=1, pool=3, threshold=12), tmp_path, capture=capture, repeats=1)
    run, _ = run_on(crew, spec)
    assert run.table("events").empty
    assert run.table("memory").empty
    tables = load(run)
    parted = breakdown(tables).steps
    assert (parted["idle_ns"] == parted["wall_ns"]).all()


def test_a_traced_run_brings_the_trace_of_every_rank(crew, profiles, tmp_path):
    capture = Capture(profile_steps=2)
    spec = make_spec(FAPool(base=2, pool=2, threshold=12), tmp_path, capture=capture, repeats=1)
    run, _ = run_on(crew, spec)
    assert [path.name.split(".")[0] for path in run.traces] == ["rank0", "rank1", "rank2", "rank3"]
    assert (run.path / "merged.json.gz").exists()
    taken_by_hta = (*run.path.glob("trace/*.gz"), *run.path.glob("trace/*.json"))
    assert set(taken_by_hta) == set(run.traces)
    assert breakdown(load(run)).unmatched == 0
    check_depths(run)


def check_depths(run: Run) -> None:
    """The live spans of the traced steps and the trace say the same of them."""
    measured, traced = run.table("steps"), run.table("traced_steps")
    assert set(traced["repeat"]) == {TRACED}
    assert not (measured["repeat"] == TRACED).any()
    last = traced["step"].max()
    assert sorted(traced["step"]) == sorted(measured.loc[measured["step"] <= last, "step"])
    found = traced_run(run)
    depths, steps = found.depths, found.found.parted.steps
    assert found.found.unattributed.empty
    assert found.found.parted.unmatched == 0
    assert depths.rows.groupby("rank")["step"].nunique().tolist() == [2] * 4
    told = traced[traced["kind"] == "decode"].set_index(["rank", "step"])
    walls = told["end_ns"] - told["start_ns"]
    decode = steps[steps["kind"] == "decode"].set_index(["rank", "step"])["wall_ns"]
    # Of eight steps of ranks the middle one: a host that is taken away between the two readings
    # of a border says nothing of them.
    assert ((decode - walls).abs() / walls).median() < 0.03
    worst = depths.rows.groupby(["rank", "step"])["live_share"].agg(lambda share: share.abs().max())
    assert len(worst) == 8 and worst.median() < 0.03
