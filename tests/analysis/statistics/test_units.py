"""What counts as one value: repeats where there are enough, else blocks; the mean stays."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from fapool.analysis.metrics import metrics, per_repeat, per_request
from fapool.analysis.statistics.significance import contrast
from fapool.analysis.statistics.units import blocks_of, decode_steps, scope, step_weights, units
from fapool.analysis.study import Study, study
from fapool.phases import ENERGY
from fapool.spec import Static, TraceWorkload, Workload
from tests.synthetic import small_spec, write_run

WORK = Workload(batch=2, context=96, output=40)


def ragged(folder):
    """Requests of unequal lengths in two slots, so that prefills stand between tokens."""
    lengths = folder / "lengths.csv"
    rows = [f"{20 + 7 * i},{3 + 5 * (i % 3)}" for i in range(9)]
    lengths.write_text("\n".join(["ContextTokens,GeneratedTokens", *rows]))
    return TraceWorkload(path=lengths, sample=9, batch=2)


def test_repeats_have_the_values_that_a_run_of_each_alone_would_have(tmp_path):
    whole = study(write_run(tmp_path, small_spec(repeats=3, workload=ragged(tmp_path))))
    found, first = units(whole), per_request(whole.tables)
    tpot = first.groupby("repeat")["tpot_ms"]
    assert found["tpot_mean"].values == pytest.approx(tpot.mean().to_numpy(), rel=1e-12)
    assert found["tpot_p50"].values == pytest.approx(tpot.median().to_numpy(), rel=1e-12)
    assert found["tps"].values == pytest.approx(per_repeat(whole.tables)["tps"].to_numpy())


def test_blocks_of_tpot_have_the_runs_own_mean_and_those_of_steps_their_medians(tmp_path):
    found = study(write_run(tmp_path, small_spec(repeats=1, workload=WORK)))
    own, ms = units(found), decode_steps(found.tables)["ms"]
    expected = per_request(found.tables)["tpot_ms"].mean()
    assert own["tpot_mean"].values.mean() == pytest.approx(expected, rel=1e-12)
    assert own["decode_step"].values == pytest.approx(
        [ms[n : n + 3].median() for n in range(0, 39, 3)]
    )


def of_steps(whole: Study, ms: np.ndarray) -> Study:
    """A run of decode steps of these lengths on rank 0, and of nothing else."""
    ends = whole.tables.steps["start_ns"].min() + np.cumsum(np.rint(ms * 1e6)).astype(np.int64)
    row = {"repeat": 0, "rank": 0, "kind": "decode", "method": "host clock"}
    steps = pd.DataFrame({"step": np.arange(len(ms)), "end_ns": ends} | row)
    steps = steps.assign(start_ns=ends - np.rint(ms * 1e6).astype(np.int64))
    tables = replace(whole.tables, steps=steps, requests=whole.tables.requests[:0])
    return replace(whole, tables=tables, metrics={"decode_step": float(np.median(ms))})


def with_burst(rng: np.random.Generator) -> np.ndarray:
    """200 steps of 1 ms, a dozen of which, one after another, take 4 ms."""
    ms, at = 1 + 0.01 * rng.standard_normal(200), rng.integers(0, 188)
    ms[at : at + 12] += 3
    return ms


def test_one_burst_of_slow_steps_makes_no_difference_of_medians_significant(tmp_path):
    whole, rng, p = study(write_run(tmp_path, small_spec(repeats=1))), np.random.default_rng(0), []
    for _ in range(40):
        quiet = of_steps(whole, 1 + 0.01 * rng.standard_normal(200))
        sides = [units(run)["decode_step"] for run in (quiet, of_steps(whole, with_burst(rng)))]
        p.append(contrast(*(side.values for side in sides)).p)
    assert np.mean(np.array(p) < 0.05) <= 0.15  # 0.05 and 2.9 standard errors of 40


def test_the_interval_of_the_decode_step_covers_the_median(tmp_path):
    whole, rng, hits = (
        study(write_run(tmp_path, small_spec(repeats=1))),
        np.random.default_rng(3),
        [],
    )
    for _ in range(60):
        run = of_steps(whole, rng.lognormal(0, 0.4, 200))  # median 1, mean 1.08
        found = units(run)["decode_step"]
        hits.append(found.interval.low <= 1 <= found.interval.high)
        assert found.interval.low < run.metrics["decode_step"] < found.interval.high
    assert np.mean(hits) >= 0.86  # 0.95 and 3 standard errors of 60


def test_repeats_are_the_units_where_there_are_three(tmp_path):
    found = units(study(write_run(tmp_path, small_spec(repeats=3))))
    assert {own.unit for own in found.values()} == {"repeat"}
    assert {"tpot_mean", "tps", "utilisation_pool", "overlap_efficiency"} <= set(found)
    assert not {"gpus", "charged_gpus", "tpot_p99"} & set(found)


def test_a_repeat_is_charged_its_own_energy(tmp_path):
    whole = study(write_run(tmp_path, small_spec(repeats=3)))
    mj = {0: 1_000, 1: 4_000, 2: 2_500}  # of each of four GPUs
    rows = [(n, rank, f"{rank}", 0, 1, mj[n], "counter") for n in mj for rank in range(4)]
    tables = replace(whole.tables, energy=pd.DataFrame(rows, columns=ENERGY.names))
    found = units(replace(whole, tables=tables, metrics=metrics(tables, whole.parted)))
    per_pass = {"output_token": 2 * 4, "token": 2 * (96 + 4)}
    for name, tokens in per_pass.items():
        expected = [4 * 1.0 / tokens, 4 * 4.0 / tokens, 4 * 2.5 / tokens]
        assert found[f"energy_per_{name}"].values == pytest.approx(expected)
    assert found["energy_pool_per_output_token"].values == pytest.approx([2 / 8, 8 / 8, 5 / 8])


def test_blocks_and_waves_stand_in_for_repeats_where_they_can(tmp_path):
    spec = small_spec(repeats=1, workload=ragged(tmp_path), plan=Static(tp=2))
    found = units(study(write_run(tmp_path, spec)))
    assert set(found) == {"ttft_mean", "tpot_mean", "tpot_gpu", "tpot_charged_gpu", "decode_step"}
    assert found["ttft_mean"].unit == "wave"
    assert found["tpot_mean"].unit.startswith("block of ")


def test_mean_tpot_is_exactly_the_weighted_sum_of_the_steps_between_tokens(tmp_path):
    run = write_run(tmp_path, small_spec(workload=ragged(tmp_path), plan=Static(tp=2)))
    found = study(run)
    steps, weights = step_weights(found.tables)
    assert set(steps["kind"]) == {"prefill", "decode"}  # a wave's prefill delays others' tokens
    ms = (steps["end_ns"] - steps["start_ns"]) / 1e6
    expected = per_request(found.tables)["tpot_ms"].mean()
    assert float(ms @ weights) == pytest.approx(expected, rel=1e-12)


def test_blocks_do_not_reach_over_the_end_of_a_repeat(tmp_path):
    found = study(write_run(tmp_path, small_spec(workload=WORK)))
    steps = decode_steps(found.tables)
    blocks = blocks_of(steps, steps["ms"].to_numpy())
    number = blocks.number
    assert len(np.unique(np.column_stack([number, steps["repeat"]]), axis=0)) == number.max() + 1
    assert blocks.length == 3  # the cube root of 39


def test_outputs_of_one_token_have_no_tpot_and_no_units_of_it(tmp_path):
    spec = small_spec(repeats=1, workload=Workload(batch=2, context=96, output=1))
    assert units(study(write_run(tmp_path, spec))) == {}


def test_what_intervals_speak_of_is_one_short_sentence():
    assert scope("repeat", "repeat") == "95 % intervals over repeats"
    pairs = [f"pairs of blocks of {number} decode steps" for number in (3, 4)]
    assert scope(*pairs) == "95 % intervals within these runs, over blocks of steps"
    assert scope(pairs[0]) == f"95 % intervals within these runs, over {pairs[0]}"
