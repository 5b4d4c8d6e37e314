"""Every metric against numbers worked out by hand on a run of two ranks and two steps."""

import pandas as pd
import pytest

from fapool.analysis.breakdown import breakdown
from fapool.analysis.load import Tables, load
from fapool.analysis.metrics import DEFINITIONS, definitions, metrics, per_repeat, per_request
from fapool.phases import ENERGY, EVENTS, MEMORY
from fapool.spec import FAPool
from tests.synthetic import EPOCH_NS, small_spec, write_run

MS = 1_000_000


def at(*ms: float) -> list[int]:
    return [EPOCH_NS + int(value * MS) for value in ms]


def energy(*taken: tuple[str, int, int]) -> pd.DataFrame:
    """(device, rank, mJ) of the one pass."""
    rows = [(0, rank, device, *at(0, 90), mj, "counter") for device, rank, mj in taken]
    return pd.DataFrame(rows, columns=ENERGY.names)


@pytest.fixture
def tables() -> Tables:
    """Base rank 0 and pool rank 1: prefill [0, 40), decode [40, 60), [60, 90) ms; pool leased
    in the last step alone. Rank 0 computes 10 ms of each step; rank 1 15 ms of the last."""
    edges = at(0, 40, 60, 90)
    steps = pd.concat(
        pd.DataFrame(
            {"repeat": 0, "rank": rank, "step": [0, 1, 2], "role": role, "method": "host clock"}
            | {"kind": ["prefill", "decode", "decode"], "start_ns": edges[:3], "end_ns": edges[1:]}
            | {"requests": 2, "tokens": 2, "leased": [0, 0, 1], "kv_tokens": 0}
        )
        for rank, role in ((0, "base"), (1, "pool"))
    )
    spans = [(0, *at(0, 10)), (0, *at(40, 50)), (0, *at(60, 70)), (1, *at(65, 80))]
    events = pd.DataFrame(spans, columns=["rank", "start_ns", "end_ns"])
    events = events.assign(repeat=0, step=0, layer=0, micro_batch=0, sequence=-1, bytes=0)
    events = events.assign(phase="ffn", category="compute", channel="")[EVENTS.names]
    requests = pd.DataFrame(
        {"repeat": 0, "request": [0, 1], "context": [100, 50], "output": [3, 1]}
        | {"admitted_ns": at(0, 10), "first_token_ns": at(40, 40), "last_token_ns": at(90, 40)}
        | {"leased_at": [-1, -1]}
    )
    return Tables(
        name="by hand",
        spec=small_spec(plan=FAPool(base=1, pool=1, threshold=64)),
        events=events,
        steps=steps.reset_index(drop=True),
        requests=requests,
        memory=MEMORY.empty_table().to_pandas(),
        energy=energy(("a", 0, 4_000), ("b", 1, 1_500)),
    )


def test_every_metric_is_what_its_definition_says(tables):
    found = metrics(tables, breakdown(tables))
    expected = {
        "gpus": 2,
        "charged_gpus": (90 + 30) / 90,
        "ttft_mean": 35,  # 40 and 30 ms
        "ttft_p50": 35,
        "ttft_p90": 39,
        "ttft_p99": 39.9,
        "tpot_mean": 25,  # 50 ms for two tokens; the other request has one token
        "tpot_p50": 25,
        "tpot_p90": 25,
        "tpot_p99": 25,
        "decode_step": 25,  # of 20 and 30
        "tps": 154 / 0.090,
        "tps_output": 4 / 0.090,
        "tps_per_gpu": 154 / 0.180,
        "tps_per_charged_gpu": 154 / 0.120,
        "tpot_gpu": 50,
        "tpot_charged_gpu": 25 * (50 + 30) / 50,
        "utilisation_base": 100 * 30 / 90,
        "utilisation_pool": 100 * 15 / 90,
        "overlap_efficiency": None,  # nothing was communicated
        "energy_per_output_token": 5.5 / 4,
        "energy_per_token": 5.5 / 154,
        "energy_base_per_output_token": 4 / 4,
        "energy_pool_per_output_token": 1.5 / 4,
    }
    assert found == {k: v if v is None else pytest.approx(v) for k, v in expected.items()}
    assert list(found) == list(DEFINITIONS)


@pytest.mark.parametrize(
    ("taken", "expected"),
    [
        ([], (None, None, None)),
        ([("a", 0, 4_000)], (None, None, None)),  # a part is not the whole
        ([("a", 0, 4_000), ("a", 1, 3_990)], (4.0, None, None)),  # one device, counted once
        ([("a", 0, 4_000), ("b", 1, 0)], (4.0, 4.0, 0.0)),
    ],
)
def test_energy_is_of_whole_devices_each_counted_once(tables, taken, expected):
    changed = Tables(**(vars(tables) | {"energy": energy(*taken)}))
    found = metrics(changed, breakdown(changed))
    names = ("energy_per", "energy_base_per", "energy_pool_per")
    per_token = [j if j is None else pytest.approx(j / 4) for j in expected]
    assert [found[f"{name}_output_token"] for name in names] == per_token


def test_energy_of_other_passes_is_not_counted(tables):
    other = energy(("a", 0, 7_000), ("b", 1, 7_000)).assign(repeat=1)
    both = Tables(**(vars(tables) | {"energy": pd.concat([tables.energy, other])}))
    assert metrics(both, breakdown(both))["energy_per_output_token"] == pytest.approx(5.5 / 4)


def test_a_request_of_one_token_has_no_tpot(tables):
    assert per_request(tables)["tpot_ms"].isna().tolist() == [False, True]


def test_a_run_of_one_token_outputs_has_no_tpot_at_all(tables):
    alone = Tables(**(vars(tables) | {"requests": tables.requests.iloc[1:]}))
    found = metrics(alone, breakdown(alone))
    assert found["tpot_mean"] is None
    assert found["tpot_gpu"] is None
    assert found["ttft_mean"] == pytest.approx(30)


def test_elapsed_time_leaves_out_what_lies_between_repeats(tmp_path):
    tables = load(write_run(tmp_path))
    found = per_repeat(tables)
    whole = (tables.steps["end_ns"].max() - tables.steps["start_ns"].min()) / 1e9
    assert found["elapsed_s"].sum() < whole - 0.0009  # a millisecond lies between them
    assert found["output_tokens"].tolist() == [8, 8]


def test_overlap_is_the_hidden_share_of_all_communication(tmp_path):
    tables = load(write_run(tmp_path))
    found = breakdown(tables)
    hidden, exposed = found.steps["hidden_ns"].sum(), found.steps["communication_ns"].sum()
    share = 100 * hidden / (hidden + exposed)
    assert metrics(tables, found)["overlap_efficiency"] == pytest.approx(share)
    assert 0 < share < 100


def test_energy_of_ranks_without_a_gpu_is_of_devices_that_they_may_share():
    words = definitions(on_gpus=False)
    assert "a device that several ranks share counts once" in words["energy_per_output_token"][1]
    assert "energy of the devices of base ranks" in words["energy_base_per_output_token"][1]
    assert words["tps_per_gpu"] == ("tokens/s/rank", "TPS / reserved ranks")
