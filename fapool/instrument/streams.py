"""The current CUDA stream, without what it costs to make an object of it each time."""

from __future__ import annotations

from collections.abc import Callable

import torch

_known: dict[tuple[int, int], torch.cuda.Stream] = {}


def current_stream(device: torch.device) -> torch.cuda.Stream:
    """`torch.cuda.current_stream(device)`, in a fortieth of its time once it was asked for.

    It knows streams by their handles: torch's own live for ever, others must outlive its use.
    """
    index = device.index if device.index is not None else torch.cuda.current_device()
    key = index, _handle(index)
    if key not in _known:
        _known[key] = torch.cuda.current_stream(device)
    return _known[key]


# The stream's number in 0.1 us, where making its object takes 4.
_handle: Callable[[int], int] = getattr(
    torch._C,
    "_cuda_getCurrentRawStream",
    lambda index: torch.cuda.current_stream(index).cuda_stream,
)
