"""JupyterLab on a free loopback port, and Chromium that drives it."""

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import Page, expect, sync_playwright

OVERRIDES = {
    "@jupyterlab/apputils-extension:notification": {
        "checkForUpdates": False,
        "fetchNews": "false",
    },
    # Cells outside of the window would not be in the page.
    "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"},
}
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
UP_DEADLINE_S = 60


@contextlib.contextmanager
def jupyterlab(folder: Path, **environment: str) -> Iterator[str]:
    """The address, token included, of a JupyterLab that serves `folder/files`."""
    settings = folder / "settings"
    settings.mkdir()
    (settings / "overrides.json").write_text(json.dumps(OVERRIDES))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    own = {
        "JUPYTER_TOKEN": token,
        "IPYTHONDIR": str(folder / "ipython"),
        **{f"JUPYTER_{name}_DIR": str(folder / name) for name in ("CONFIG", "DATA", "RUNTIME")},
        **{f"JUPYTERLAB_{name}_DIR": str(folder / name) for name in ("SETTINGS", "WORKSPACES")},
    }
    command = [sys.executable, "-m", "jupyter", "lab", "--no-browser", "--ip=127.0.0.1"]
    command += [f"--port={port}", "--ServerApp.port_retries=0", "--expose-app-in-browser"]
    command += [f"--ServerApp.root_dir={folder / 'files'}", f"--LabApp.app_settings_dir={settings}"]
    command += ["--allow-root"] * (os.getuid() == 0)
    with (folder / "lab.log").open("w") as log:
        server = subprocess.Popen(
            command, env=os.environ | own | environment, stdout=log, stderr=log
        )
        try:
            _wait_until_up(f"http://127.0.0.1:{port}/api?token={token}", server, folder)
            yield f"http://127.0.0.1:{port}/lab/tree/{{}}?reset&token={token}"
        finally:
            server.send_signal(signal.SIGTERM)  # ends its kernels, then itself
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


@contextlib.contextmanager
def chromium(*, dark: bool = False) -> Iterator[Page]:
    """A page of a fresh profile."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=ARGUMENTS
        )
        try:
            page = browser.new_page(viewport={"width": 1500, "height": 1250})
            page.set_default_timeout(30_000)
            yield page
        finally:
            browser.close()


def open_notebook(page: Page, address: str, name: str) -> None:
    """Open a notebook and wait for its kernel; JupyterLab loses commands given before."""
    page.goto(address.format(name))
    expect(page.locator(".jp-StatusBar-Item", has_text="| Idle")).to_be_visible(timeout=90_000)
    page.evaluate("() => window.jupyterapp.commands.execute('application:toggle-left-area')")


def run_all(page: Page) -> None:
    """Run all cells; the command's own promise is not waited for, it may never settle."""
    page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells') }")


def _wait_until_up(address: str, server: subprocess.Popen, folder: Path) -> None:
    deadline = time.monotonic() + UP_DEADLINE_S
    while time.monotonic() < deadline:
        if server.poll() is not None:
            break
        try:
            with urllib.request.urlopen(address, timeout=2):
                return
        except OSError:
            time.sleep(0.2)
    raise AssertionError("JupyterLab did not come up:\n" + (folder / "lab.log").read_text()[-3000:])
