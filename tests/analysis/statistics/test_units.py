"""What counts as one value: repeats where there are enough, else blocks; the mean stays."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from fapool.analysis.metrics import metrics, per_request
from fapool.analysis.statistics.units import blocks_of, decode_steps, step_weights, units
from fapool.analysis.study import study
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


@pytest.mark.parametrize("repeats", [1, 4])
def test_the_mean_of_the_units_is_the_runs_own_value(tmp_path, repeats):
    found = study(write_run(tmp_path, small_spec(repeats=repeats, workload=WORK)))
    for name, own in units(found).items():
        assert own.values.mean() == pytest.approx(found.metrics[name])
        assert own.interval.units == len(own.values)


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
    number, length = blocks_of(steps, steps["ms"].to_numpy())
    assert len(np.unique(np.column_stack([number, steps["repeat"]]), axis=0)) == number.max() + 1
    assert length == 3  # the cube root of 39


def test_outputs_of_one_token_have_no_tpot_and_no_units_of_it(tmp_path):
    spec = small_spec(repeats=1, workload=Workload(batch=2, context=96, output=1))
    assert units(study(write_run(tmp_path, spec))) == {}
