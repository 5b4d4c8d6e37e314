"""What a kernel's name says it does: to check what its span declared, and for nothing else."""

from __future__ import annotations

import re

import pandas as pd

from fapool.analysis.fused import FUSED
from fapool.phases import Category

COMMUNICATES = re.compile(r"nccl|symm_mem|multimem|nvshmem|one_shot_all|two_shot_all|^Memcpy PtoP")
COMPUTES = re.compile(
    r"gemm|gemv|nvjet|cutlass|cublas|flash|fmha|sdpa|attend|softmax|layer_?norm|rms_?norm", re.I
)


def says(name: str) -> Category | None:
    """Compute or communication, where a name tells; None where it does not."""
    if name in FUSED or COMMUNICATES.search(name):
        return Category.COMMUNICATION
    return Category.COMPUTE if COMPUTES.search(name) else None


def disagreements(kernels: pd.DataFrame) -> pd.DataFrame:
    """Kernels whose names speak against their span's category, by name and phase.

    `kernels` has rank, name, phase, category, start_ns and end_ns; those without a span are left
    out. Columns rank, phase, category, name, says, expected (a kernel of ours that does both),
    count and ns.
    """
    spoken = {name: says(name) for name in kernels["name"].unique()}
    told = kernels["name"].map(spoken)
    both = [Category.COMPUTE, Category.COMMUNICATION]
    odd = kernels[told.notna() & kernels["category"].isin(both) & (told != kernels["category"])]
    odd = odd.assign(
        says=told, expected=odd["name"].isin(FUSED), ns=odd["end_ns"] - odd["start_ns"], count=1
    )
    keys = ["rank", "phase", "category", "name", "says", "expected"]
    found = odd.groupby(keys, as_index=False, sort=False)[["count", "ns"]].sum()
    return found.sort_values("ns", ascending=False, ignore_index=True)
