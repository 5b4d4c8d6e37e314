"""What a spec accepts, what it refuses and how, and that it survives a round trip."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fapool import spec as specs
from fapool.errors import SpecError
from fapool.presets import MODELS
from fapool.spec import (
    Capture,
    FAPool,
    Helix,
    Model,
    RangeWorkload,
    RunSpec,
    Static,
    TraceWorkload,
    Workload,
    parse,
)


def fields(**changes) -> dict:
    values = {
        "model": "tiny",
        "plan": {"kind": "fapool", "base": 2, "pool": 2, "threshold": 64},
        "workload": {"batch": 2, "context": 96, "output": 4},
        "block": 16,
        "prefill_chunk": 64,
    }
    return values | changes


PLANS = st.one_of(
    st.builds(Static, tp=st.sampled_from([1, 2, 4]), pp=st.integers(1, 2)),
    st.builds(FAPool, base=st.sampled_from([1, 2]), pool=st.integers(0, 6)),
    st.builds(FAPool, pool=st.integers(1, 6), kv=st.sampled_from(["sharded", "shared"])),
    st.builds(FAPool, pool=st.integers(3, 6), reduction=st.sampled_from(["flat", "hierarchical"])),
    st.builds(Helix, kvp=st.sampled_from([1, 2, 4]), tp=st.sampled_from([1, 2])),
)
WORKLOADS = st.one_of(
    st.builds(Workload, batch=st.integers(1, 64), context=st.integers(1, 10**7), output=st.just(3)),
    st.builds(
        TraceWorkload,
        path=st.just(Path("traces/a trace.csv")),
        sample=st.integers(1, 99),
        output_scale=st.one_of(st.none(), st.floats(0.01, 1)),
    ),
    st.builds(
        RangeWorkload,
        shortest=st.integers(1, 99),
        longest=st.integers(99, 10**7),
        sample=st.integers(1, 9),
        output=st.just(3),
    ),
)
SPECS = st.builds(
    RunSpec,
    name=st.from_regex(r"[A-Za-z0-9._-]{0,60}", fullmatch=True),
    model=st.sampled_from(sorted(MODELS)),
    plan=PLANS,
    workload=WORKLOADS,
    backend=st.sampled_from(["auto", "reference", "cpu", "flash_attn"]),
    ranks_per_node=st.one_of(st.none(), st.integers(2, 8)),
    seed=st.integers(0, 2**31 - 1),
    capture=st.builds(Capture, live_hz=st.floats(0.1, 20), profile_steps=st.integers(0, 9)),
)


@given(SPECS)
def test_json_and_yaml_read_back_to_an_equal_spec(spec):
    for text in (spec.to_json(), spec.to_yaml()):
        again = parse(text)
        assert again == spec
        assert again.fingerprint == spec.fingerprint


def test_a_file_reads_back_to_an_equal_spec(tmp_path):
    spec = RunSpec(**fields())
    (tmp_path / "spec.yaml").write_text(spec.to_yaml())
    assert specs.read(tmp_path / "spec.yaml") == spec


def test_a_range_that_ends_before_it_begins_is_refused_by_its_name():
    work = {"kind": "range", "shortest": 9, "longest": 8, "sample": 1, "output": 1}
    with pytest.raises(SpecError, match=r"^workload.longest = 8: at least shortest = 9"):
        RunSpec(**fields(workload=work))


def test_the_fingerprint_is_the_same_in_another_process():
    program = f"from fapool.spec import RunSpec; print(RunSpec(**{fields()!r}).fingerprint)"
    environment = os.environ | {"PYTHONHASHSEED": "7"}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.strip() == RunSpec(**fields()).fingerprint


def test_the_fingerprint_names_what_is_run_and_not_what_it_is_called():
    spec = RunSpec(**fields())
    assert spec.replace(name="other").fingerprint == spec.fingerprint
    prints = {spec.replace(**change).fingerprint for change in ({"seed": 1}, {"repeats": 2})}
    assert len(prints | {spec.fingerprint}) == 3
    by_sizes = RunSpec(**fields(model=Model(name="tiny", **MODELS["tiny"])))
    assert by_sizes.fingerprint == spec.fingerprint


def test_a_plan_is_called_by_its_sizes():
    assert str(Static(tp=2, pp=3)) == "Static(2,3)"
    assert str(FAPool(base=1, pool=3)) == "FAPool(1,3)"
    assert str(FAPool(base=1, pool=3, kv="shared")) == "FAPool(1,3) shared"
    merging = FAPool(base=1, pool=3, base_attends=True, reduction="hierarchical")
    assert str(merging) == "FAPool(1,3) joint hierarchical"
    assert str(Helix(kvp=2, tp=2)) == "Helix(2,2)"


def test_names_and_mappings_stand_for_their_parts():
    spec = RunSpec(**fields(plan={"tp": 2}))
    assert spec.model == Model.preset("tiny")
    assert spec.plan == Static(tp=2)
    assert spec.workload == Workload(batch=2, context=96, output=4)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_preset_is_a_model(name):
    assert Model.preset(name, layers=1).layers == 1


def test_the_paper_model_holds_what_its_table_says():
    model = Model.preset("paper-4l")
    assert model.kv_bytes_per_token == 2 * 4 * 4096 * 2


def test_a_threshold_shrinks_with_the_lengths(tmp_path):
    work = {"kind": "trace", "path": tmp_path / "t.csv", "sample": 4, "length_scale": 0.03}
    plan = {"kind": "fapool", "pool": 1, "threshold": 4096}
    assert RunSpec(**fields(plan=plan, workload=work)).threshold == round(4096 * 0.03)
    assert RunSpec(**fields(plan={"tp": 1})).threshold is None


def test_a_spec_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        RunSpec(**fields()).seed = 2


SMALL = {"context": 96, "output": 4}
MERGING = {"kind": "fapool", "pool": 2, "reduction": "hierarchical"}
TRACE = {"kind": "trace", "path": "t.csv", "sample": 3}
FEW = MODELS["tiny"] | {"heads": 12, "kv_heads": 12, "ffn": 96}
ODD = MODELS["tiny"] | {"heads": 6, "kv_heads": 4}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"colour": "red"}, "colour"),
        ({"workload": SMALL | {"colour": "red"}}, "workload.colour"),
        ({"plan": {"kind": "fapool", "size": 3}}, "plan.size"),
        ({"plan": {"kind": "ring"}}, "plan"),
        ({"plan": {"tp": 3}}, "plan.tp"),
        ({"plan": {"tp": 16}}, "plan.tp"),
        ({"plan": {"pp": 3}}, "plan.pp"),
        ({"plan": {"kind": "fapool", "base": 3}}, "plan.base"),
        ({"plan": {"kind": "helix", "kvp": 3}}, "plan.kvp"),
        ({"plan": {"kind": "helix", "kvp": 2, "tp": 8}}, "plan.kvp"),
        ({"plan": {"kind": "helix", "kvp": 2, "tp": 3}}, "plan.tp"),
        ({"plan": {"kind": "helix", "kvp": 0}}, "plan.kvp"),
        ({"plan": {"kind": "helix", "pp": 2}}, "plan.pp"),
        ({"plan": {"kind": "helix", "kvp": 2}, "model": FEW | {"ffn": 5}}, "plan.kvp"),
        ({"plan": {"kind": "helix", "tp": 4}, "model": FEW | {"kv_heads": 3}}, "plan.tp"),
        ({"plan": {"kind": "helix", "kvp": 4}, "model": FEW | {"vocab": 3}}, "model.vocab"),
        ({"plan": {"tp": 0}}, "plan.tp"),
        ({"plan": {"kind": "fapool", "pool": -1}}, "plan.pool"),
        ({"plan": {"kind": "fapool", "pool": 1.5}}, "plan.pool"),
        ({"plan": {"kind": "fapool", "pool": 1, "threshold": 15}}, "plan.threshold"),
        ({"plan": {"kind": "fapool", "pool": 1, "threshold": 0}}, "plan.threshold"),
        ({"plan": {"kind": "fapool", "pool": 2, "lease_ranks": 3}}, "plan.lease_ranks"),
        (
            {"plan": {"kind": "fapool", "base": 2, "pool": 4, "lease_ranks": 3}},
            "plan.lease_ranks",
        ),
        ({"plan": {"kind": "fapool", "base": 2, "base_attends": True}}, "plan.base_attends"),
        ({"plan": {"kind": "fapool", "pool": 1, "kv": "copied"}}, "plan.kv"),
        ({"plan": {"kind": "fapool", "pool": 1, "reduction": "tree"}}, "plan.reduction"),
        ({"plan": {"kind": "fapool", "reduction": "hierarchical"}}, "plan.reduction"),
        ({"plan": MERGING | {"kv": "shared"}}, "plan.reduction"),
        ({"plan": MERGING, "transport": "symmetric"}, "transport"),
        ({"plan": MERGING | {"pool": 1}}, "plan.reduction"),
        ({"plan": MERGING | {"base": 2}}, "plan.reduction"),
        ({"plan": MERGING, "ranks_per_node": 1}, "plan.reduction"),
        ({"plan": MERGING, "ranks_per_node": 2}, "plan.reduction"),  # 0 1 | 2
        ({"ranks_per_node": 0}, "ranks_per_node"),
        ({"plan": {"kind": "fapool", "kv": "shared"}}, "plan.kv"),
        (
            {"plan": {"kind": "fapool", "pool": 1, "kv": "shared", "base_attends": True}},
            "plan.kv",
        ),
        ({"workload": SMALL | {"context": 0}}, "workload.context"),
        ({"workload": SMALL | {"context": -5}}, "workload.context"),
        ({"workload": SMALL | {"context": float("nan")}}, "workload.context"),
        ({"workload": SMALL | {"context": 10**7 + 1}}, "workload.context"),
        ({"workload": SMALL | {"context": "long"}}, "workload.context"),
        ({"workload": SMALL | {"output": 10**12}}, "workload.output"),
        ({"workload": SMALL | {"batch": 10**9}}, "workload.batch"),
        ({"workload": SMALL | {"batch": True}}, "workload.batch"),
        ({"workload": {"output": 3}}, "workload.context"),
        ({"workload": {"kind": "trace", "sample": 3}}, "workload.path"),
        ({"workload": TRACE | {"length_scale": 2}}, "workload.length_scale"),
        ({"workload": TRACE | {"length_scale": float("nan")}}, "workload.length_scale"),
        ({"workload": TRACE | {"seed": 2**31}}, "workload.seed"),
        ({"model": "huge"}, "model"),
        ({"model": 3}, "model"),
        ({"model": MODELS["tiny"] | {"layers": 0}}, "model.layers"),
        ({"model": ODD}, "model.kv_heads"),
        ({"model": MODELS["tiny"] | {"head_dim": 12}}, "model.head_dim"),
        ({"model": MODELS["tiny"] | {"rope_base": float("inf")}}, "model.rope_base"),
        ({"prefill_chunk": 40}, "prefill_chunk"),
        ({"block": 0}, "block"),
        ({"repeats": 0}, "repeats"),
        ({"warmup": -1}, "warmup"),
        ({"backend": "fastest"}, "backend"),
        ({"device": "tpu"}, "device"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**80}, "seed"),
        ({"model": MODELS["tiny"] | {"vocab": 1}}, "model.vocab"),
        ({"model": MODELS["tiny"] | {"vocab": 3}, "plan": {"tp": 4}}, "model.vocab"),
        ({"capture": {"profile_steps": 65}}, "capture.profile_steps"),
        ({"capture": {"profile_steps": 2, "spans": False}}, "capture.profile_steps"),
        ({"device": "cpu", "transport": "symmetric"}, "transport"),
        ({"device": "cpu", "backend": "cudnn"}, "backend"),
        ({"device": "cpu", "backend": "triton"}, "backend"),
        ({"device": "cuda", "backend": "cpu"}, "backend"),
        ({"model": MODELS["tiny"] | {"dtype": "float64"}, "transport": "symmetric"}, "transport"),
        ({"name": "../etc"}, "name"),
        ({"capture": {"live_hz": 1000}}, "capture.live_hz"),
    ],
)  # fmt: skip
def test_a_mistake_is_refused_by_the_name_of_its_field(changes, field):
    with pytest.raises(SpecError) as caught:
        RunSpec(**fields(**changes))
    assert caught.value.field == field
    assert caught.value.way_out
    text = yaml.safe_dump(fields(**changes))
    with pytest.raises(SpecError) as caught:
        parse(text)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("changes", "way_out"),
    [
        ({"plan": {"tp": 3}}, "choose a divisor of model.heads = 8"),
        ({"plan": {"pp": 3}}, "at most model.layers = 2 stages"),
        ({"plan": {"kind": "fapool", "threshold": 15}}, "less than one KV block"),
        ({"plan": {"kind": "fapool", "base_attends": True}}, "plan.pool at least 1"),
        ({"plan": {"kind": "fapool", "kv": "shared"}}, "plan.pool at least 1"),
        ({"plan": MERGING, "transport": "symmetric"}, "choose auto or messages"),
        ({"plan": MERGING | {"pool": 1}}, "its pool has one rank: choose flat"),
        ({"plan": MERGING | {"base": 2}}, "2 pool ranks share out 2 groups of heads: choose flat"),
        ({"plan": MERGING, "ranks_per_node": 2}, "no node of ranks_per_node = 2 has two pool"),
        (
            {"plan": {"kind": "helix", "kvp": 2, "tp": 8}},
            "16 ranks share out model.heads = 8: choose",
        ),
        ({"model": "huge"}, "name one of tiny, cpu"),
        ({"colour": "red"}, "no such field"),
    ],
)
def test_the_message_says_what_to_do(changes, way_out):
    with pytest.raises(SpecError, match=way_out):
        RunSpec(**fields(**changes))


@pytest.mark.parametrize("name", ["model", "plan", "workload", "workload.context"])
def test_what_is_missing_is_named_and_nothing_else_shown(name):
    values = fields(workload={"output": 3}) if "." in name else fields()
    values.pop(name, None)
    with pytest.raises(SpecError, match=f"^{name}: missing; give it$"):
        RunSpec(**values)


NO_SPECS = ["", "- 1\n", "just words", "{", "a: [", "1: 2", "!!python/x {}", "self: 1"]
NO_SPECS += ["name: 2020-13-41", "plan: {1: 2}", "? [a]\n: b", "a: !!int x", "a: !!bool x"]


@pytest.mark.parametrize("text", [*NO_SPECS, "[" * 5000, "seed: " + "9" * 5000])
def test_text_that_is_no_spec_is_refused(text):
    with pytest.raises(SpecError):
        parse(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("seed: 1\nmodel: tiny\nseed: 2\n", "seed = '2': given twice, again in line 3"),
        ("plan:\n  tp: 1\n  tp: 2\n", "tp = '2': given twice, again in line 3"),
        ('{"plan": {"tp": 1}, "plan": {"tp": 2}}', "plan = 'a mapping': given twice"),
    ],
)
def test_a_key_given_twice_is_named(text, says):
    with pytest.raises(SpecError, match=says):
        parse(text)


def test_a_file_that_holds_no_spec_is_named(tmp_path):
    for name, text in (("empty.yaml", ""), ("list.yaml", "- 1"), ("date.yaml", "a: 2020-13-41")):
        (tmp_path / name).write_text(text)
        with pytest.raises(SpecError, match=name):
            specs.read(tmp_path / name)


def test_a_file_that_is_missing_or_no_text_is_refused(tmp_path):
    (tmp_path / "noise").write_bytes(b"\xff\xfe\x00\x80")
    for path in (tmp_path / "none.yaml", tmp_path, tmp_path / "noise"):
        with pytest.raises(SpecError, match="spec = "):
            specs.read(path)


def test_a_part_alone_refuses_its_own_mistakes():
    with pytest.raises(SpecError, match="tp = 0"):
        Static(tp=0)
    with pytest.raises(SpecError, match="kv_heads = 4: choose a divisor of heads = 6"):
        Model(**ODD)
