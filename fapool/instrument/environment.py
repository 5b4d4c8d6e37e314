"""What a run ran on: machine, devices, versions. No secrets: the environment is not dumped."""

from __future__ import annotations

import importlib.metadata
import platform
import socket
from pathlib import Path
from typing import Any

import psutil
import torch

import fapool

try:
    import pynvml
except ImportError:
    pynvml = None

PACKAGES = ("numpy", "pyarrow", "nvtx", "triton", "flash-attn", "nvidia-nccl-cu13", "ipyparallel")


def environment(device: torch.device) -> dict[str, Any]:
    """What this rank sees of its machine, as JSON values; memory in bytes.

    `gpus` lists the GPUs visible to the process on CUDA, and is empty on CPU.
    """
    on_cuda = device.type == "cuda"
    return {
        "host": socket.gethostname(),
        "system": platform.platform(),
        "device": str(device),
        "cpu": {
            "name": cpu_name(),
            "cores": psutil.cpu_count(logical=False),
            "threads": psutil.cpu_count(),
            "torch_threads": torch.get_num_threads(),
            "memory_bytes": psutil.virtual_memory().total,
        },
        "gpus": [_gpu(index) for index in range(torch.cuda.device_count())] if on_cuda else [],
        "driver": driver_version() if on_cuda else None,
        "versions": _versions(on_cuda),
    }


def cpu_name() -> str:
    """The processor's name as Linux gives it; else what Python knows."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def driver_version() -> str | None:
    """Version of NVIDIA's driver; None where the management library or the driver is missing."""
    if pynvml is None:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        return pynvml.nvmlSystemGetDriverVersion()
    finally:
        pynvml.nvmlShutdown()


def _gpu(index: int) -> dict[str, Any]:
    found = torch.cuda.get_device_properties(index)
    return {
        "name": found.name,
        "memory_bytes": found.total_memory,
        "compute_capability": f"{found.major}.{found.minor}",
        "processors": found.multi_processor_count,
    }


def _versions(on_cuda: bool) -> dict[str, str | None]:
    versions = {
        "python": platform.python_version(),
        "fapool": fapool.__version__,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": str(torch.backends.cudnn.version()) if on_cuda else None,
        "nccl": ".".join(map(str, torch.cuda.nccl.version())) if on_cuda else None,
    }
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
