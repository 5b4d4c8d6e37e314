"""What is said of a machine is true, plain JSON, and holds nothing of the environment."""

import os
import platform

import orjson
import pytest
import torch

import fapool
from fapool.instrument import environment as module
from fapool.instrument.environment import environment

CPU = torch.device("cpu")


def test_versions_are_those_that_run():
    versions = environment(CPU)["versions"]
    assert versions["python"] == platform.python_version()
    assert versions["torch"] == torch.__version__
    assert versions["fapool"] == fapool.__version__


def test_it_is_json_without_the_environments_variables(monkeypatch):
    monkeypatch.setenv("FAPOOL_TEST_SECRET", "do-not-write-this-down")
    text = orjson.dumps(environment(CPU)).decode()
    assert os.environ["FAPOOL_TEST_SECRET"] not in text


def test_a_machine_without_driver_has_none(monkeypatch):
    monkeypatch.setattr(module, "pynvml", None)
    assert module.driver_version() is None


def test_a_cpu_rank_names_its_processor_and_no_gpu():
    found = environment(CPU)
    assert found["cpu"]["name"]
    assert found["cpu"]["memory_bytes"] == pytest.approx(
        os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), rel=0.01
    )
    assert found["gpus"] == []
