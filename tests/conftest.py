"""What all tests share: an empty store, markers that skip with a reason, a check for leaks."""

import importlib.util
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from hypothesis import HealthCheck, settings

# How quickly an example runs says more of who else works here than of the code.
settings.register_profile("fapool", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("fapool")

# Multiprocessing starts these once and ends them with the interpreter: not leaks.
SERVANTS = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")
EXIT_DEADLINE_S = 10


@pytest.fixture
def profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty store, which is also the one that is found when none is named."""
    folder = tmp_path / "profiles"
    folder.mkdir()
    monkeypatch.setenv("FAPOOL_PROFILES", str(folder))
    return folder


def pytest_runtest_setup(item: pytest.Item) -> None:
    if gpu := item.get_closest_marker("gpu"):
        needed = gpu.args[0] if gpu.args else 1
        if missing := missing_gpus(needed):
            pytest.skip(missing)
    if item.get_closest_marker("browser") and (missing := missing_browser()):
        if os.environ.get("FAPOOL_REQUIRE_BROWSER") == "1":
            pytest.fail(f"FAPOOL_REQUIRE_BROWSER=1, but {missing}", pytrace=False)
        pytest.skip(missing)


def missing_gpus(needed: int) -> str | None:
    """What keeps a test from `needed` GPUs, None when nothing does."""
    if importlib.util.find_spec("torch") is None:
        return f"needs {needed} GPUs: torch is not installed"
    import torch  # only here: most tests run without it

    if torch.version.cuda is None:
        return f"needs {needed} GPUs: torch {torch.__version__} is a build without CUDA"
    found = torch.cuda.device_count()
    return None if found >= needed else f"needs {needed} GPUs: torch sees {found}"


def missing_browser() -> str | None:
    """What keeps a test from driving Chromium, None when nothing does."""
    if shutil.which("chromium") is None:
        return "needs a browser: no `chromium` on PATH"
    if importlib.util.find_spec("playwright") is None:
        return "needs a browser: playwright is not installed"
    return None


@pytest.fixture(autouse=True)
def no_process_is_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a `ranks` test that leaves child processes; those of wider fixtures may live on."""
    if request.node.get_closest_marker("ranks") is None:
        yield
        return
    before = set(children())
    yield
    started = [child for child in children() if child not in before]
    _, left = psutil.wait_procs(started, timeout=EXIT_DEADLINE_S)
    described = [describe(child) for child in left]
    for child in left:  # so that the next test starts clean
        child.kill()
    psutil.wait_procs(left, timeout=EXIT_DEADLINE_S)
    if described:
        pytest.fail("processes left behind:\n" + "\n".join(described), pytrace=False)


def children() -> list[psutil.Process]:
    """All descendants of this process but multiprocessing's servants."""
    found = psutil.Process().children(recursive=True)
    return [child for child in found if not any(name in describe(child) for name in SERVANTS)]


def describe(process: psutil.Process) -> str:
    try:
        return f"{process.pid} {process.status()} {' '.join(process.cmdline())}"
    except psutil.NoSuchProcess:
        return f"{process.pid} gone"
