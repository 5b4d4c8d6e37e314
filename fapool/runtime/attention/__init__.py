"""Backends of partial attention, by name, and the choice among them.

`auto` takes, for prefill and decode each, the first of its order that fits the device: cuDNN's
prefill is the fastest on Hopper and slower than flash-attn before it; in decode its plans are
compiled for one length each, and lengths change with every step, so flash-attn's paged kernel
comes first and torch's own FlashAttention-2 next.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fapool.errors import SpecError
from fapool.runtime.attention.aten import Aten
from fapool.runtime.attention.base import Backend
from fapool.runtime.attention.cpu import Cpu
from fapool.runtime.attention.cudnn import Cudnn
from fapool.runtime.attention.flash_attn import FlashAttn
from fapool.runtime.attention.reference import Reference

BACKENDS: dict[str, Backend] = {
    backend.name: backend for backend in (Reference(), Cpu(), Aten(), Cudnn(), FlashAttn())
}

ORDER = {
    "prefill": ("cudnn", "flash_attn", "aten", "cpu", "reference"),
    "prefill before Hopper": ("flash_attn", "aten", "cudnn", "cpu", "reference"),
    "decode": ("flash_attn", "aten", "cudnn", "cpu", "reference"),
}


@dataclass(frozen=True, kw_only=True)
class Backends:
    """The kernels that a run uses."""

    prefill: Backend
    decode: Backend


def choose(name: str, *, device: torch.device, dtype: torch.dtype, head_dim: int) -> Backends:
    """The backend called `name` for everything, or the best for each phase if it is `auto`.

    Raises:
        SpecError: the named backend cannot run here; says why.
    """
    where = {"device": device, "dtype": dtype, "head_dim": head_dim}
    if name != "auto":
        why = BACKENDS[name].unfit(**where)
        if why:
            raise SpecError("backend", name, f"{why}; choose auto")
        return Backends(prefill=BACKENDS[name], decode=BACKENDS[name])
    fit = [name for name, backend in BACKENDS.items() if not backend.unfit(**where)]
    hopper = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)
    prefill = ORDER["prefill" if hopper else "prefill before Hopper"]
    return Backends(
        prefill=BACKENDS[next(name for name in prefill if name in fit)],
        decode=BACKENDS[next(name for name in ORDER["decode"] if name in fit)],
    )
