"""Backends of partial attention, by name, and the choice among them.

`auto` takes, for prefill and decode each, the first of its order that fits the device: cuDNN's
prefill is the fastest on Hopper and slower than flash-attn before it. In decode our own kernel
comes first, flash-attn's paged one next and torch's own FlashAttention-2 after them: cuDNN's plans
are compiled for one length each, and lengths change with every step. That is why its prefill is
put to it in tiles of few lengths.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fapool.errors import SpecError
from fapool.runtime.attention.aten import Aten
from fapool.runtime.attention.base import Backend
from fapool.runtime.attention.cpu import Cpu
from fapool.runtime.attention.cudnn import Cudnn
from fapool.runtime.attention.cudnn_tiled import CudnnTiled
from fapool.runtime.attention.flash_attn import FlashAttn
from fapool.runtime.attention.reference import Reference
from fapool.runtime.attention.triton import Triton

ALL: tuple[Backend, ...] = (
    Reference(),
    Cpu(),
    Aten(),
    Cudnn(),
    CudnnTiled(),
    FlashAttn(),
    Triton(),
)
BACKENDS = {backend.name: backend for backend in ALL}

ORDER = {
    "prefill": ("cudnn_tiled", "flash_attn", "aten", "cudnn", "cpu", "reference"),
    "prefill before Hopper": ("flash_attn", "aten", "cudnn", "cpu", "reference"),
    "decode": ("triton", "flash_attn", "aten", "cudnn", "cpu", "reference"),
}


@dataclass(frozen=True, kw_only=True)
class Backends:
    """The kernels that a run uses."""

    prefill: Backend
    decode: Backend


def choose(name: str, *, device: torch.device, dtype: torch.dtype, head_dim: int) -> Backends:
    """The backend called `name` for all that it can do, or the best for each phase if `auto`.

    Raises:
        SpecError: the named backend cannot run here; says why.
    """
    where = {"device": device, "dtype": dtype, "head_dim": head_dim}
    if name != "auto" and (why := BACKENDS[name].unfit(**where)):
        raise SpecError("backend", name, f"{why}; choose auto")
    fit = [name for name, backend in BACKENDS.items() if not backend.unfit(**where)]
    hopper = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)
    order = {
        "prefill": ORDER["prefill" if hopper else "prefill before Hopper"],
        "decode": ORDER["decode"],
    }
    if name != "auto":
        order = {phase: (name, *others) for phase, others in order.items()}
    if name == "triton":  # one query at a time is all that it is for
        order["prefill"] = order["prefill"][1:]
    best = {phase: next(n for n in names if n in fit) for phase, names in order.items()}
    return Backends(prefill=BACKENDS[best["prefill"]], decode=BACKENDS[best["decode"]])
