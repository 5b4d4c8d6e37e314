"""Planted truth: a delay that is put into one rank is found in its category, phase and rank."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import landing, planting
from fapool.phases import Category, Phase
from fapool.store import Run, Store
from tests.processes import ROOT, python_path
from tests.runtime.crew import Crew

DELAY_NS = 120_000_000
STEPS = {"leases": 6, "transfer": 12}  # of 14 in all, those that lease, or come after the first
ATTEMPTS = 2
"""Where others work on the machine, half of the steps may be late by a few ms now and then."""

PLANTS = planting.plants(planting.threshold_for("cpu"))


def planted_run(crew: Crew, folder: Path, name: str) -> tuple[Run, list[planting.Notes]]:
    spec = planting.spec_for(PLANTS[name].plan, folder, device="cpu")
    run = Store(folder / "profiles").create(spec)
    asked = {"spec": spec.to_json(), "folder": str(run.path), "plant": name}
    notes = crew.ask("planted", **asked, delay_ns=DELAY_NS)
    return run.finish(), notes


@pytest.mark.ranks
@pytest.mark.parametrize("name", PLANTS)
def test_a_planted_delay_lands_in_its_category_and_phase(crew, tmp_path, name):
    plant = PLANTS[name]
    for _ in range(ATTEMPTS):
        run, notes = planted_run(crew, tmp_path, name)
        assert [bool(noted) for noted in notes[:2]] == [plant.rank == 0, plant.rank == 1]
        put = notes[plant.rank]
        where = {"rank": plant.found_on, "category": plant.category, "phase": plant.phase}
        found = landing.judge(run, put, **where)
        assert found.planted_ms >= DELAY_NS / 1e6
        assert found.steps == STEPS.get(name, 14)
        elsewhere = {"rank": 0, "category": Category.COMPUTE, "phase": Phase.LOGITS}
        assert not landing.judge(run, put, **elsewhere).holds
        if found.holds:
            break
    assert found.holds, found
    if name == "arrival":  # the late rank itself: nothing was recorded meanwhile
        own = landing.judge(run, put, rank=plant.rank, category=Category.IDLE, phase="")
        assert own.error == pytest.approx(0, abs=landing.TOLERANCE)


@pytest.mark.gpu(2)
def test_delays_on_gpus_land_there_too(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", "benchmarks/planted.py", "--out", str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": python_path()}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-9000:]
    plants = json.loads((tmp_path / "planted-cuda.json").read_text())["plants"]
    assert {name: one["holds"] for name, one in plants.items()} == dict.fromkeys(PLANTS, True)
