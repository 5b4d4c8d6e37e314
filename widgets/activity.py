"""One thing at a time, on a thread of its own, with its outcome kept for whoever waits."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from fapool.errors import FapoolError


class Activity:
    """Runs acts one after another, never two at once.

    Args:
        on_error: called on the act's thread with what it raised.
        on_change: called with True when an act begins and False when it has ended.
    """

    def __init__(
        self, on_error: Callable[[BaseException], None], on_change: Callable[[bool], None]
    ) -> None:
        self._on_error, self._on_change = on_error, on_change
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._outcome: Any = None
        self._error: BaseException | None = None
        self.name = ""

    @property
    def busy(self) -> bool:
        """Whether an act is under way."""
        return self._thread is not None and self._thread.is_alive()

    def begin(self, name: str, act: Callable[[], Any]) -> None:
        """Start `act` and return at once.

        Raises:
            FapoolError: another act is under way.
        """
        with self._lock:
            if self.busy:
                raise FapoolError(f"{self.name} is under way; wait for its end, or press Stop")
            self.name, self._outcome, self._error = name, None, None
            # Daemon: a kernel that shuts down must not wait for a run.
            self._thread = threading.Thread(target=self._do, args=(act,), name=name, daemon=True)
            self._on_change(True)
            self._thread.start()

    def wait(self, timeout_s: float | None = None) -> Any:
        """Block until the act has ended; what it returned.

        Raises:
            TimeoutError: it is still under way.
            Exception: what it raised.
        """
        if self._thread is not None:
            self._thread.join(timeout_s)
        if self.busy:
            raise TimeoutError(f"{self.name} is still under way after {timeout_s} s")
        if self._error is not None:
            raise self._error
        return self._outcome

    def _do(self, act: Callable[[], Any]) -> None:
        try:
            self._outcome = act()
        except Exception as error:
            self._error = error
            self._on_error(error)
        finally:
            self._on_change(False)
