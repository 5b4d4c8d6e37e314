"""Ranks that run `fake_rank`, shared by the tests of a module, which must end all of them."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from fapool.cluster import Patience, Ranks
from fapool.spec import RunSpec, Static, Workload
from fapool.store import Store

PATIENCE = Patience(running_s=5, loading_s=30)


@pytest.fixture(autouse=True)
def no_process_is_left_behind() -> None:
    """Here ranks are replaced in the middle of a test: the module is checked as a whole."""


@pytest.fixture(scope="module", autouse=True)
def nothing_is_left_behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No process, no temporary folder, nothing in the user's IPython folder."""
    fresh = tmp_path_factory.mktemp("environment")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        patch.setenv("IPYTHONDIR", str(fresh / "ipython"))
        patch.setattr("tempfile.tempdir", str(fresh))
        before = set(psutil.Process().children(recursive=True))
        yield
        left = set(psutil.Process().children(recursive=True)) - before
    assert [each for each in left if "resource_tracker" not in " ".join(each.cmdline())] == []
    assert list(fresh.iterdir()) == []


@pytest.fixture(scope="module")
def start() -> Iterator[Callable[[int], Ranks]]:
    """Starts ranks; they end with the module."""
    started: list[Ranks] = []

    def start(n: int, **options) -> Ranks:
        options = {"entry": "fake_rank", "patience": PATIENCE} | options
        started.append(Ranks.start(n, **options))
        return started[-1]

    yield start
    for ranks in started:
        ranks.close()


@pytest.fixture
def store(profiles: Path) -> Store:
    return Store(profiles)


@pytest.fixture
def make_spec() -> Callable[..., RunSpec]:
    def make_spec(world: int, steps: int, **changes) -> RunSpec:
        fields = {"model": "tiny", "plan": Static(tp=world), "block": 16, "prefill_chunk": 16}
        fields |= {"workload": Workload(context=16, output=steps)}
        return RunSpec(**(fields | changes))

    return make_spec
