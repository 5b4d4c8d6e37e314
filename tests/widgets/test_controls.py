"""From controls to a spec, within the ranks at hand."""

import pytest

from fapool.errors import SpecError, TraceFileError
from fapool.spec import FAPool, Helix, Model, Static, TraceWorkload
from fapool.workload import requests_of
from widgets.controls import Controls
from widgets.defaults import length_label, length_steps
from widgets.plan_controls import helix_grids, static_grids
from widgets.progress import duration, time_left_s


@pytest.fixture
def controls() -> Controls:
    return Controls(ranks=4, device="cpu")


def test_the_controls_are_a_spec(controls):
    controls.set(context=4096, threshold=1024, base=2, pool=1, batch=3, output=32, model="tiny")
    spec = controls.spec()
    assert spec.plan == FAPool(base=2, pool=1, threshold=1024)
    work = spec.workload
    assert (work.batch, work.context, work.output) == (3, 4096, 32)
    assert (spec.model.name, spec.block, spec.prefill_chunk) == ("tiny", 16, 256)


def test_the_base_attends_beside_its_pool_where_that_is_ticked(controls):
    assert controls.plan.base_attends in controls.plan.children
    assert controls.spec().plan == FAPool(base=1, pool=3, threshold=512)
    controls.set(base_attends=True)
    plan = controls.spec().plan
    assert plan == FAPool(base=1, pool=3, threshold=512, base_attends=True)
    assert f"<b>{plan}</b>" in controls.verdict.value
    controls.set(plan="Static")
    assert controls.plan.base_attends not in controls.plan.children


def test_without_a_pool_the_tick_that_the_base_attends_too_says_nothing(controls):
    controls.set(base_attends=True, pool=0)
    assert controls.spec().plan == FAPool(base=1, pool=0, threshold=512)
    controls.set(pool=2)
    assert controls.spec().plan == FAPool(base=1, pool=2, threshold=512, base_attends=True)


@pytest.mark.parametrize(
    ("pool_keys", "fields"),
    [
        ("dealt out over the pool", {}),
        ("dealt out, merged in nodes", {"reduction": "hierarchical"}),
        ("all on each pool rank", {"kv": "shared"}),
    ],
)
def test_where_keys_lie_is_chosen_where_there_is_a_pool(controls, pool_keys, fields):
    assert controls.plan.pool_keys in controls.plan.children
    controls.set(pool_keys=pool_keys)
    assert controls.spec().plan == FAPool(base=1, pool=3, threshold=512, **fields)
    controls.set(pool=0)
    assert controls.spec().plan == FAPool(base=1, pool=0, threshold=512)


def test_keys_on_each_rank_and_a_base_that_attends_exclude_each_other(controls):
    controls.set(pool_keys="all on each pool rank", base_attends=True)
    assert "plan.kv" in controls.verdict.value
    with pytest.raises(SpecError, match=r"leave out plan\.base_attends"):
        controls.spec()


def test_a_pool_of_one_that_is_to_merge_is_told_so_and_none_is_there_from_the_start(controls):
    assert controls.spec().plan.reduction == "flat"
    controls.set(pool_keys="dealt out, merged in nodes", pool=1)
    assert "nothing to merge" in controls.verdict.value
    controls.set(pool=2)
    assert controls.spec().plan.reduction == "hierarchical"


def test_a_static_layout_is_chosen_among_those_that_fit(controls):
    controls.set(plan="Static", static=(2, 2))
    assert controls.spec().plan == Static(tp=2, pp=2)
    offered = {value for _, value in controls.plan.static.options}
    assert (4, 1) in offered
    assert (3, 1) not in offered
    assert all(tp * pp <= 4 for tp, pp in offered)


def test_a_helix_layout_is_chosen_among_those_that_fit(controls):
    controls.set(plan="Helix", helix=(2, 2))
    assert controls.spec().plan == Helix(kvp=2, tp=2)
    assert controls.plan.helix.options[0] == ("KVP 4 × TP 1", (4, 1))
    assert (3, 1) not in {value for _, value in controls.plan.helix.options}
    controls.fit(2, "cpu")
    assert controls.spec().plan == Helix(kvp=2, tp=1)


def test_grids_divide_the_model():
    mqa = Model.preset("tiny", kv_heads=1)
    grids = {(8, 1), (4, 2), (2, 4), (1, 8), (4, 1), (2, 2), (1, 4), (2, 1), (1, 2), (1, 1)}
    assert set(helix_grids(mqa, 8)) == grids
    assert (8, 1) in static_grids(mqa, 8)
    assert all(pp <= 2 for _, pp in static_grids(mqa, 8))


def test_the_pool_follows_base_and_ranks(controls):
    assert controls.plan.pool.max == 3
    controls.set(base=2)
    assert controls.plan.pool.max == 2
    controls.fit(2, "cpu")
    assert controls.spec().plan.world <= 2
    controls.fit(8, "cpu")
    assert controls.plan.pool.max == 8 - controls.plan.base.value


def test_an_unknown_control_is_refused(controls):
    with pytest.raises(TypeError, match="treshold"):
        controls.set(treshold=512)


def test_a_trace_needs_a_file(controls):
    controls.set(workload="From a trace")
    with pytest.raises(SpecError, match="trace file"):
        controls.spec()


def test_lengths_come_from_a_trace(controls, tmp_path):
    path = tmp_path / "azure.csv"
    path.write_text("ContextTokens,GeneratedTokens\n4000,50\n8000,90\n")
    controls.set(workload="From a trace", path=str(path), sample=2, length_scale=0.1)
    spec = controls.spec()
    assert isinstance(spec.workload, TraceWorkload)
    assert [request.context for request in requests_of(spec)] == [400, 800]


def test_a_broken_trace_is_named(controls, tmp_path):
    path = tmp_path / "azure.csv"
    path.write_text("ContextTokens\n4000\n")
    controls.set(workload="From a trace", path=str(path), sample=1)
    with pytest.raises(TraceFileError, match="GeneratedTokens"):
        requests_of(controls.spec())


def test_a_threshold_below_one_block_is_said_at_once(controls, tmp_path):
    path = tmp_path / "azure.csv"
    path.write_text("ContextTokens,GeneratedTokens\n4000,50\n")
    controls.set(workload="From a trace", path=str(path), threshold=512, length_scale=0.01)
    assert "less than one KV block" in controls.verdict.value
    with pytest.raises(SpecError, match="block"):
        controls.spec()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"context": 4096, "threshold": 512}, "while they are read"),
        ({"context": 512, "threshold": 512}, "while they generate"),
        ({"context": 256, "threshold": 512}, "never touched"),
        ({"base_attends": True}, "while they are read. The base attends beside it."),
        ({"pool_keys": "all on each pool rank"}, "Each pool rank has all of its keys."),
        ({"pool_keys": "dealt out, merged in nodes"}, "Partials are merged in each node first."),
        ({"pool": 0}, "no pool"),
        ({"pool": 0, "base_attends": True}, "no pool"),
        ({"plan": "Static", "static": (2, 2)}, "2 stages"),
        (
            {"plan": "Helix", "helix": (4, 1)},
            "4 ranks share its keys by sequence; 4 share each layer",
        ),
    ],
)
def test_the_panel_says_what_will_happen(controls, changes, said):
    controls.set(**changes)
    assert said in controls.verdict.value


def test_gpus_are_offered_other_sizes(controls):
    controls.fit(4, "cuda")
    spec = controls.spec()
    assert (spec.model.name, spec.block, spec.prefill_chunk) == ("paper-4l", 256, 8192)
    assert controls.workload.context.options[-1] == ("128K", 131072)


def test_steps_are_powers_of_two_and_their_halfway_points():
    assert [n for _, n in length_steps(64, 300)] == [64, 96, 128, 192, 256]


@pytest.mark.parametrize("tokens", [64, 1000, 1024, 1536, 131072])
def test_a_label_says_the_exact_number(tokens):
    label = length_label(tokens)
    said = float(label[:-1]) * 1024 if label.endswith("K") else float(label)
    assert said == tokens


def test_time_left_follows_the_pace_so_far():
    assert time_left_s(0, 10, 0.0) is None
    assert time_left_s(4, 10, 2.0) == pytest.approx(3.0)
    assert duration(95.2) == "1 min 35 s"
