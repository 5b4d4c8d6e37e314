"""Runs of which only some decode steps have spans: what is parted, and what stands for the rest."""

import pandas as pd
import pytest

from fapool.analysis.breakdown import PARTS, breakdown
from fapool.analysis.load import load
from fapool.analysis.metrics import metrics
from fapool.analysis.sampled import recorded, sampling, undisturbed
from fapool.analysis.steps.timeline import one_step
from fapool.analysis.summary import by_rank
from fapool.spec import Workload
from tests.synthetic import small_spec, write_run

WORK = Workload(batch=2, context=96, output=11)  # 10 decode steps a repeat


@pytest.fixture(scope="module")
def sampled(tmp_path_factory):
    spec = small_spec(workload=WORK)
    return load(write_run(tmp_path_factory.mktemp("sampled"), spec, sample_every=4))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return load(write_run(tmp_path_factory.mktemp("whole"), small_spec(workload=WORK)))


def table(*methods_by_rank: str) -> pd.DataFrame:
    """Decode steps of a millisecond each; a letter a step: e(vents), n(one)."""
    names = {"e": "graph events", "n": "none"}
    rows = [
        {"repeat": 0, "rank": rank, "step": step, "kind": "decode", "method": names[letter]}
        | {"start_ns": step * 1_000_000, "end_ns": (step + 1) * 1_000_000}
        for rank, letters in enumerate(methods_by_rank)
        for step, letter in enumerate(letters)
    ]
    return pd.DataFrame(rows)


def test_a_step_is_recorded_if_it_is_on_every_rank():
    steps = table("eenn", "enen")
    assert steps[recorded(steps)]["step"].tolist() == [0, 0]
    assert recorded(table("nn", "nn")).all()
    assert recorded(table("ee", "ee")).all()


def test_sampled_and_other_steps_stand_side_by_side(sampled, whole):
    found = sampling(sampled.steps)
    steps = sampled.steps.query("rank == 0 and kind == 'decode'")
    wall = (steps["end_ns"] - steps["start_ns"]) / 1e6
    with_spans = steps["step"].isin([1, 5, 9])
    assert (found.sampled, found.others) == (6, 14)
    assert found.sampled_ms == pytest.approx(wall[with_spans].median())
    assert found.others_ms == pytest.approx(wall[~with_spans].median())
    assert found.sampled_ms > found.others_ms
    assert found.words.startswith("1 in 3 decode steps sampled; median of sampled steps ")
    assert sampling(whole.steps) is None
    assert sampling(table("nnn")) is None


def test_steps_that_any_rank_recorded_are_disturbed():
    assert undisturbed(table("ennn", "nnen"))["step"].tolist() == [1, 3]
    assert undisturbed(table("ee", "en"))["step"].tolist() == [0, 1]
    assert set(undisturbed(table("nn", "nn"))["rank"]) == {0}


def test_the_decode_step_is_that_of_steps_left_alone(sampled):
    steps = sampled.steps.query("rank == 0 and kind == 'decode'")
    wall = (steps["end_ns"] - steps["start_ns"]) / 1e6
    alone = wall[~steps["step"].isin([1, 5, 9])]
    assert metrics(sampled, breakdown(sampled))["decode_step"] == pytest.approx(alone.median())


def test_the_share_of_sampling_is_what_it_adds_over_all_that_steps_take():
    steps = table(("e" + 9 * "n") * 10)
    steps.loc[steps["method"] != "none", "end_ns"] += 500_000
    assert sampling(steps).share == pytest.approx(10 * 0.5 / (100 * 1.0 + 10 * 0.5))


def test_only_steps_with_spans_are_parted(sampled, whole):
    found, full = breakdown(sampled), breakdown(whole)
    decode = found.steps.query("kind == 'decode'")
    assert set(decode["step"]) == {1, 5, 9}
    assert (found.exchanges, found.unmatched) == (full.exchanges * 4 // 11, 0)
    same = full.steps[full.steps["step"].isin(decode["step"]) & (full.steps["kind"] == "decode")]
    assert decode["compute_ns"].tolist() == same["compute_ns"].tolist()
    assert (decode["idle_ns"] < 200_000).all()  # 10 us, what recording takes, and the waits it cost
    assert set(by_rank(found)["steps"]) == {6}


def test_sampled_steps_weigh_as_much_as_all_of_their_rank_and_kind(sampled, whole):
    steps = breakdown(sampled).steps
    every = sampled.steps.assign(wall_ns=sampled.steps["end_ns"] - sampled.steps["start_ns"])
    weighed = (steps["weight"] * steps["wall_ns"]).groupby([steps["rank"], steps["kind"]]).sum()
    assert weighed.tolist() == pytest.approx(every.groupby(["rank", "kind"])["wall_ns"].sum())
    assert set(breakdown(whole).steps["weight"]) == {1.0}


def test_metrics_are_of_all_steps(sampled):
    found, steps = metrics(sampled, breakdown(sampled)), sampled.steps
    first = steps.query("rank == 0 and kind == 'decode'")
    tpot = (first["end_ns"] - first["start_ns"]).mean() / 1e6  # all requests share all steps
    assert found["tpot_mean"] == pytest.approx(tpot)
    parted = breakdown(sampled).steps.query("role == 'base'")
    computed = 0.0
    for (rank, kind), rows in parted.groupby(["rank", "kind"]):
        own = steps[(steps["rank"] == rank) & (steps["kind"] == kind)]
        share = rows["compute_ns"].sum() / rows["wall_ns"].sum()
        computed += share * (own["end_ns"] - own["start_ns"]).sum()
    base = steps[steps["role"] == "base"]
    wall = (base["end_ns"] - base["start_ns"]).sum()
    assert found["utilisation_base"] == pytest.approx(100 * computed / wall)


def test_a_run_without_any_spans_stays_whole(sampled):
    bare = type(sampled)(
        **vars(sampled)
        | {"steps": sampled.steps.assign(method="none"), "events": sampled.events.iloc[:0]}
    )
    found = breakdown(bare).steps
    assert len(found) == len(bare.steps)
    assert (found["idle_ns"] == found["wall_ns"]).all()
    assert (found[PARTS].sum(axis=1) == found["wall_ns"]).all()


def test_the_step_that_is_drawn_had_spans(sampled):
    drawn = one_step(sampled)
    assert any(drawn.equals(one_step(sampled, step=step)) for step in (1, 5, 9))
    assert set(drawn["rank"]) == {0, 1, 2, 3}
