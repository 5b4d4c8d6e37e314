"""Kernels that start before the one ahead of them has ended, where the device can do that.

Programmatic dependent launch (Hopper and later): programs of the next kernel of a stream come up
as soon as all of this one have said `gdc_launch_dependents`, and wait in `gdc_wait` until it has
ended and its results are seen. So every program calls `gdc_wait` before it reads or writes what
another kernel writes or reads, and a kernel that has ended says that all before it have.
"""

from __future__ import annotations

from functools import cache

import torch
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

__all__ = ["chains", "gdc_launch_dependents", "gdc_wait"]


@cache
def chains(device: torch.device) -> bool:
    """Whether kernels on `device` can be launched with `launch_pdl=True`."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)
