"""A delay planted in one rank's phase is found by name, in its place, and as long as it was."""

import pytest

from fapool.analysis.breakdown import breakdown
from fapool.analysis.load import load
from fapool.analysis.steps.critical import critical
from fapool.analysis.steps.stragglers import sentences, stragglers, waits
from fapool.spec import Model, RunSpec, Static, Workload
from fapool.store import Store

pytestmark = pytest.mark.ranks

SECONDS, LAYERS = 0.02, 4
MODEL = Model(
    layers=LAYERS, hidden=24, heads=4, kv_heads=2, head_dim=8, ffn=36, vocab=53, dtype="float32"
)


def test_a_slow_ffn_of_one_rank_is_named_by_those_who_wait_and_by_the_critical_path(crew, profiles):
    work = Workload(batch=2, context=8, output=6)
    fields = {"model": MODEL, "plan": Static(tp=2), "workload": work, "device": "cpu", "block": 4}
    spec = RunSpec(**fields, prefill_chunk=16, warmup=0)
    folder = Store().create(spec)
    delay = {"rank": 1, "phase": "ffn", "seconds": SECONDS}
    crew.ask("run", spec=spec.to_json(), folder=str(folder.path), delay=delay)
    run = folder.finish()
    assert run.environment["clock"]["uncertainty_ns"] == {"0": 0, "1": 0}  # of one host
    tables = load(run)
    parted = breakdown(tables)
    planted_ms = 1e3 * SECONDS * LAYERS

    rows = stragglers(waits(tables, parted), parted)
    worst = rows.iloc[0]
    assert (worst["rank"], worst["awaited"], worst["phase"]) == (0, 1, "all_reduce")
    assert worst["busy_with"] == "ffn"
    assert worst["ms"] == pytest.approx(planted_ms, rel=0.05)
    assert "for rank 1 (all_reduce; busy with ffn)" in sentences(rows)[0]

    found = critical(tables)
    spans = tables.events.query("rank == 1 and phase == 'ffn' and step > 0")
    slow_ms = (spans["end_ns"] - spans["start_ns"]).sum() / found.steps / 1e6
    assert slow_ms >= planted_ms  # with what the computation takes, which on a busy host is more
    on_path = found.path.groupby(["rank", "phase"])["ms"].sum()
    assert on_path[1, "ffn"] == pytest.approx(slow_ms, rel=0.05)
    assert found.without["phase"][0] == "ffn"
    assert found.without["saved_ms"][0] == pytest.approx(slow_ms, rel=0.05)
