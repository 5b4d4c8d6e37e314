"""Two streams for kernels that follow each other: the tail of one and the head of the next."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class Lanes:
    """Runs launches on a stream beside the current one and on the current one, in turn.

    The last waves of a kernel leave SMs idle; the next kernel, on the other stream, fills them.
    """

    def __init__(self) -> None:
        self._beside: torch.cuda.Stream | None = None

    def run(
        self,
        launches: Sequence[Callable[[], Sequence[Tensor]]],
        ready: torch.cuda.Event | None,
        *,
        beside: bool,
    ) -> None:
        """Launch all, the ones beside not before `ready`; the current stream waits for them.

        With `beside` false, or without a GPU (`ready` None), all run one after the other.
        Each launch returns the tensors it allocated that the current stream goes on to use.
        """
        if ready is None or not beside:
            for launch in launches:
                launch()
            return
        main = torch.cuda.current_stream()
        self._beside = self._beside or torch.cuda.Stream()
        self._beside.wait_event(ready)
        for number, launch in enumerate(launches):
            if number % 2:
                launch()
                continue
            with torch.cuda.stream(self._beside):
                for tensor in launch():
                    tensor.record_stream(main)
        main.wait_stream(self._beside)
