"""The main program of a controller or an engine, tied to a client: ends when that is gone.

Run by its path, so that a process starts without the packages that it may never need:

    python -P tether.py <home> <grace, seconds> controller|engine [ipyparallel's arguments ...]

`<home>/client.json` names the client by pid and creation time; another client takes over by
writing itself there within the grace. What the process prints goes to `<home>/output/<pid>.log`.
Where the client does not come back, the processes take `<home>` with them.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

import psutil

CLIENT = "client.json"
PROGRAMS = {"controller": "ipyparallel.controller.app", "engine": "ipyparallel.engine.app"}


def take(home: Path) -> None:
    """Make this process the client of all processes tied to `home`."""
    me = psutil.Process()
    scratch = home / f".{CLIENT}.{me.pid}"
    scratch.write_text(json.dumps({"pid": me.pid, "created": me.create_time()}))
    scratch.replace(home / CLIENT)


def has_client(home: Path) -> bool:
    """Whether the client that `home` names still lives; False if `home` is gone."""
    try:
        client = json.loads((home / CLIENT).read_text())
        process = psutil.Process(client["pid"])
        same = abs(process.create_time() - client["created"]) < 1.0
        return same and process.status() != psutil.STATUS_ZOMBIE
    except (OSError, psutil.NoSuchProcess):
        return False


def hold(home: Path, grace_s: float) -> None:
    """Block until the client has been gone for `grace_s`."""
    seen = time.monotonic()
    while time.monotonic() - seen < grace_s:
        time.sleep(min(1.0, grace_s / 4))
        if has_client(home):
            seen = time.monotonic()


def end(home: Path) -> None:
    """End this process and all that it started, with no chance to object."""
    for child in psutil.Process().children(recursive=True):
        child.kill()
    shutil.rmtree(home, ignore_errors=True)
    os.kill(os.getpid(), signal.SIGKILL)


def follow_parent() -> None:
    """End this process as soon as the one that forked it is gone; returns at once."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="tether", daemon=True).start()


def output(home: Path, pid: int) -> Path:
    """Where a tied process prints."""
    return home / "output" / f"{pid}.log"


def main() -> None:
    """Tie this process to its client, then become the program asked for."""
    home, grace_s, program = Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
    sys.argv[1:] = sys.argv[4:]
    printed = os.open(output(home, os.getpid()), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for stream in (1, 2):
        os.dup2(printed, stream)

    def watch() -> None:
        hold(home, grace_s)
        end(home)

    threading.Thread(target=watch, name="tether", daemon=True).start()
    # The controller forks its schedulers, and threads do not survive a fork.
    os.register_at_fork(after_in_child=follow_parent)
    importlib.import_module(PROGRAMS[program]).main()


if __name__ == "__main__":
    main()
