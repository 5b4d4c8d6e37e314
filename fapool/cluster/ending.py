"""Closing a run's folder, which a full disk or a missing folder must not turn into a hang."""

from __future__ import annotations

from collections.abc import Iterable

from fapool.errors import FapoolError, RankFailed, StoreError
from fapool.store import Run, RunFolder


def finish(folder: RunFolder, endings: Iterable[str]) -> Run:
    """Close the folder of a run whose ranks ended so: "finished" or "stopped".

    Raises:
        RankFailed: it is incomplete, or cannot be closed.
    """
    try:
        return folder.finish("stopped" if "stopped" in endings else "finished")
    except StoreError as error:
        raise RankFailed(0, f"left an incomplete folder: {error}") from None
    except OSError as error:
        raise RankFailed(-1, f"ended, but its folder could not be closed: {error}") from None


def close_failed(folder: RunFolder, error: FapoolError, log_tail: str) -> FapoolError:
    """Close the folder as failed if that can be done; the error for the user, who hears if not."""
    rank, reason = getattr(error, "rank", -1), getattr(error, "reason", str(error))
    unclosed = ""
    try:
        folder.fail(rank=rank, reason=reason, log_tail=log_tail)
    except (OSError, ValueError, StoreError) as why:  # a full disk, no folder, no status
        unclosed = f"; {folder.path.name} could not be closed as failed ({why})"
    if isinstance(error, RankFailed):
        return RankFailed(rank, reason + unclosed, log_tail)
    return FapoolError(reason + unclosed) if unclosed else error
