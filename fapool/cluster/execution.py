"""One run on the ranks: sends the spec, collects samples, watches, and closes the folder.

    restore ranks -> rendezvous -> send -> collect ... -> all returned        -> finished, stopped
                                              |-> a rank died or raised       -> failed
                                              |-> nobody says anything        -> failed
                                              '-> the ranks were closed       -> failed

A folder that cannot be closed, on a full disk or because it is gone, ends a run all the same. A
killed process outweighs what its peers say of it: their connection errors are consequences.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

import ipyparallel
import psutil

from fapool.cluster import ending, engine
from fapool.cluster.engines import Engines
from fapool.cluster.hub import POLL_S
from fapool.errors import FapoolError, RankFailed, StoreError
from fapool.sample import Sample
from fapool.spec import RunSpec
from fapool.store import Run, RunFolder

ENDED = "was ended by the user: its ranks were closed"
EXIT_S = 15
"""From a close to the end of a supervisor, at most."""

Listener = Callable[["Execution"], None]
log = logging.getLogger("fapool.cluster")


class Execution:
    """A run that goes on, or has ended. Made by `Ranks.run`."""

    def __init__(
        self, spec: RunSpec, folder: RunFolder, engines: Engines, *, start_s: float
    ) -> None:
        self.spec, self.folder = spec, folder
        self._engines, self._start_s = engines, start_s
        self._ranks = range(spec.plan.world)
        self._results: dict[int, ipyparallel.AsyncResult] = {}
        self._samples: dict[int, Sample] = {}
        self._ended: dict[int, str] = {}  # how processes ended, in the order it was noticed
        self._listeners: list[Listener] = []
        self._lock = threading.Lock()  # of _listeners against the end
        self._abandoned = threading.Event()
        self._done = threading.Event()
        self._run: Run | None = None
        self._error: FapoolError | None = None
        self._thread = threading.Thread(target=self._supervise, name="supervisor", daemon=True)
        self._thread.start()

    @property
    def done(self) -> bool:
        """Whether the run has ended and its folder is closed."""
        return self._done.is_set()

    def samples(self) -> dict[int, Sample]:
        """The newest sample of every rank that has sent one."""
        return dict(self._samples)

    def stop(self) -> None:
        """Ask the ranks to end within a few steps; does not wait.

        Raises:
            StoreError: the folder that they would read it from is full or gone.
        """
        if self.done:
            return
        try:
            self.folder.stop_file.touch()
        except OSError as error:
            raise StoreError(f"cannot ask for a stop: {error}; close the ranks instead") from None

    def wait(self, timeout_s: float | None = None) -> Run:
        """The run, once it has ended.

        Raises:
            RankFailed: a rank died, hung or raised; the folder says so too.
            FapoolError: the ranks could not be restored before the run.
            TimeoutError: it goes on after `timeout_s` seconds.
        """
        if not self._done.wait(timeout_s):
            raise TimeoutError(f"{self.folder.path.name} goes on after {timeout_s} s")
        if self._error is not None:
            raise self._error
        assert self._run is not None
        return self._run

    def add_listener(self, listener: Listener) -> None:
        """Have `listener(execution)` called on new samples, and once at the end.

        Calls come from the supervisor's own thread; what a listener raises is logged. Added to
        an execution that has ended, it is called at once, in the caller's thread.
        """
        with self._lock:
            self._listeners.append(listener)
            late = self.done
        if late:
            _call(listener, self)

    def abandon(self) -> None:
        """End it now, as failed, with the ranks that take part; wait until that is done."""
        self._abandoned.set()
        if threading.current_thread() is not self._thread:
            self._thread.join(EXIT_S)

    def _supervise(self) -> None:
        try:
            self._begin()
            self._run = self._follow()
        except Exception as error:
            if not isinstance(error, FapoolError):
                log.exception("the supervisor of %s failed", self.folder.path.name)
            self._fail(error)
        finally:  # whatever happened: somebody waits
            with self._lock:
                self._done.set()
                listeners = list(self._listeners)
            for listener in listeners:
                _call(listener, self)

    def _begin(self) -> None:
        self._engines.restore(self._start_s)
        meeting = self._engines.ask(0, engine.open_store)
        for rank in self._ranks:
            self._engines.printed(rank)  # what it printed before this run is not this run's
            self._results[rank] = self._engines.send(
                rank, engine.run, self.spec.to_json(), rank, meeting, str(self.folder.path)
            )

    def _follow(self) -> Run:
        heard = time.monotonic()
        while True:
            if self._collect():
                heard = time.monotonic()
            if self._abandoned.is_set():
                raise RankFailed(-1, ENDED)
            if self._in_trouble():
                raise self._blame()
            if all(result.ready() for result in self._results.values()):
                return self._finish()
            self._check_quiet(time.monotonic() - heard)
            time.sleep(POLL_S)

    def _collect(self) -> bool:
        """Take new samples; whether there were any."""
        new = False
        for rank, result in self._results.items():
            values = result.data.get(engine.SAMPLE)
            held = self._samples.get(rank)
            if values and (held is None or values["sequence"] != held.sequence):
                self._samples[rank] = Sample(**values)
                new = True
        if new:
            for listener in list(self._listeners):
                _call(listener, self)
        return new

    def _in_trouble(self) -> bool:
        for rank in self._ranks:
            if rank not in self._ended and not self._engines.is_alive(rank):
                self._ended[rank] = self._engines.how_it_ended(rank)
        return bool(self._ended or self._raised())

    def _raised(self) -> dict[int, BaseException]:
        ready = {rank: result for rank, result in self._results.items() if result.ready()}
        return {rank: error for rank, result in ready.items() if (error := result.exception(0))}

    def _blame(self) -> RankFailed:
        """Give the others a moment to return by themselves, then say who was first."""
        deadline = time.monotonic() + self._engines.patience.peers_s
        while time.monotonic() < deadline:
            self._in_trouble()
            open_ = [rank for rank, result in self._results.items() if not result.ready()]
            if set(open_) <= set(self._ended):
                break
            time.sleep(POLL_S)
        if self._ended:
            rank = next(iter(self._ended))
            return RankFailed(rank, self._ended[rank])
        if noted := self.folder.first_failure():
            return RankFailed(noted[0], f"failed: {noted[1]}")
        rank, error = next(iter(self._raised().items()))
        return RankFailed(rank, f"failed: {error}")

    def _check_quiet(self, quiet_s: float) -> None:
        patience = self._engines.patience
        running = any(sample.stage == "running" for sample in self._samples.values())
        if quiet_s < (patience.running_s if running else patience.loading_s):
            return
        stopped = [
            rank
            for rank in self._ranks
            if psutil.Process(self._engines.pid(rank)).status() == psutil.STATUS_STOPPED
        ]
        stands = ", ".join(
            f"rank {rank} {sample.stage} at step {sample.step}"
            for rank, sample in sorted(self._samples.items())
        )
        who = stopped[0] if stopped else -1
        why = "is suspended" if stopped else "hangs"
        raise RankFailed(who, f"{why}: no word for {quiet_s:.0f} s; {stands or 'none before'}")

    def _finish(self) -> Run:
        endings = {result.get() for result in self._results.values()}
        self._collect()
        return ending.finish(self.folder, endings)

    def _fail(self, error: Exception) -> None:
        """Set the error for the user, free the ranks, close the folder."""
        if self._abandoned.is_set() and not isinstance(error, RankFailed):
            error = RankFailed(-1, ENDED)
        elif not isinstance(error, FapoolError):
            error = RankFailed(-1, f"was lost sight of: {type(error).__name__}: {error}")
        self._error = error
        self._engines.kill(rank for rank, sent in self._results.items() if not sent.ready())
        tail = self._last_lines(getattr(error, "rank", -1))
        self._error = ending.close_failed(self.folder, error, tail)

    def _last_lines(self, rank: int) -> str:
        if rank not in self._ranks:
            return ""
        printed = self._engines.printed(rank) if rank in self._ended else ""
        try:
            if printed:
                with self.folder.log(rank).open("a") as lines:
                    lines.write(printed)  # what the C++ side said last
            return self.folder.log_tail(rank)
        except OSError:
            return printed[-2000:]


def _call(listener: Listener, execution: Execution) -> None:
    try:
        listener(execution)
    except Exception:
        log.exception("a listener of %s failed", execution.folder.path.name)
