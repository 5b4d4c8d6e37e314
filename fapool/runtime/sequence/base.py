"""The contract of a carrier: how rows reach the other ranks while this one attends.

ready = carrier.mark()                   # the tensors are ready at this point of the stream
...                                      # launch kernels
carrier.begin(mail, like)                # expect the others' rows
carrier.post(ready, tensors, targets)    # send to these, the next of the mail's targets
carrier.wait(sources)                    # from here on the stream sees what these sent
...                                      # launch kernels on carrier.received
carrier.finish()                         # nothing of this exchange is under way any more
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from torch import Tensor

from fapool.runtime.sequence.mail import Mail


class Carrier(Protocol):
    """Moves rows of one or more tensors between the ranks of a group; one exchange at a time.

    `received` are the buffers, rows by `Mail.heard`, valid from `wait` until the next `begin`.
    """

    received: tuple[Tensor, ...]

    def mark(self) -> Any:
        """The point of the current stream after which tensors may be read."""

    def begin(self, mail: Mail, like: Sequence[Tensor]) -> None:
        """Open an exchange of rows with the dtypes, device and trailing shapes of `like`."""

    def post(self, ready: Any, tensors: Sequence[Tensor], targets: Sequence[int]) -> None:
        """Send rows of `tensors`, which must stay until `finish`, once the stream is at `ready`."""

    def wait(self, sources: Iterable[int]) -> None:
        """Hold the current stream (the host, on a CPU) until all of these ranks' rows are here."""

    def finish(self) -> None:
        """Wait for whom was not waited for, and until the own rows have left."""
