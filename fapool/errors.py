"""Everything that fapool raises on purpose.

FapoolError
|-- SpecError (ValueError)    what the user asked for cannot be: field, value, way out
|   |-- TraceFileError        a request-length trace that cannot be read as one
|   `-- ProfileFileError      a profiler's trace that cannot be read as one
|-- StoreError                a run folder that is missing, broken or unfinished
|-- CheckFailed               a plan whose logits are not the reference's
|-- ExchangeError             the protocol between ranks was broken: a bug of ours
`-- RankFailed                a rank died, hung or raised; carries its last lines
"""

from __future__ import annotations


class FapoolError(Exception):
    """Root of all errors raised on purpose."""


class SpecError(FapoolError, ValueError):
    """A user's mistake: names the field, the value it had and the way out."""

    def __init__(self, field: str, value: object, way_out: str) -> None:
        super().__init__(f"{field} = {value!r}: {way_out}")
        self.field, self.value, self.way_out = field, value, way_out


class TraceFileError(SpecError):
    """A trace file that is missing, lacks columns, or holds impossible lengths."""


class ProfileFileError(SpecError):
    """A profiler's trace, or a folder of them, that is missing or no trace at all."""


class StoreError(FapoolError):
    """A run folder that is missing, broken or unfinished."""


class CheckFailed(FapoolError):
    """A plan's logits differ from the one-device reference by more than the tolerance."""


class ExchangeError(FapoolError):
    """A message was waited for twice, never waited for, or had another size than agreed."""


class RankFailed(FapoolError):
    """A rank died, hung or raised. `rank` may be -1 when no single rank is to blame."""

    def __init__(self, rank: int, reason: str, log_tail: str = "") -> None:
        tail = f"\nits last lines:\n{log_tail}" if log_tail else ""
        who = f"rank {rank}" if rank >= 0 else "the run"
        super().__init__(f"{who} {reason}{tail}")
        self.rank, self.reason, self.log_tail = rank, reason, log_tail
