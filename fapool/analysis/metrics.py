"""What a run achieved, one number a metric, each with its unit and its definition."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import pandas as pd

from fapool.analysis.breakdown import Breakdown
from fapool.analysis.charged import charge
from fapool.analysis.energy import joules
from fapool.analysis.load import Tables
from fapool.analysis.sampled import any_spans, undisturbed
from fapool.phases import Category, Role

DEFINITIONS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "gpus": ("GPUs", "reserved GPUs: the ranks of the plan, base and pool"),
        "charged_gpus": (
            "GPUs",
            "charged GPU-seconds / elapsed: a base rank is charged for all that elapses, a pool "
            "rank for its steps in which it serves a lease, with its waits for the base",
        ),
        "ttft_mean": ("ms", "TTFT = first token - admission, per request; mean over requests"),
        "ttft_p50": ("ms", "median of TTFT over requests"),
        "ttft_p90": ("ms", "90th percentile of TTFT over requests"),
        "ttft_p99": ("ms", "99th percentile of TTFT over requests"),
        "tpot_mean": (
            "ms",
            "TPOT = (last token - first token) / (output tokens - 1), per request of more than "
            "one output token; mean over requests",
        ),
        "tpot_p50": ("ms", "median of TPOT over requests"),
        "tpot_p90": ("ms", "90th percentile of TPOT over requests"),
        "tpot_p99": ("ms", "99th percentile of TPOT over requests"),
        "decode_step": (
            "ms",
            "median wall time of a decode step on rank 0, over all repeats; where some were "
            "sampled, of those that were not, whereas TPOT and TPS hold both",
        ),
        "tps": (
            "tokens/s",
            "(input + output tokens) / elapsed; elapsed = latest end - earliest start of a step "
            "on any rank, summed over repeats",
        ),
        "tps_output": ("tokens/s", "output tokens / elapsed"),
        "tps_per_gpu": ("tokens/s/GPU", "TPS / reserved GPUs"),
        "tps_per_charged_gpu": ("tokens/s/GPU", "(input + output tokens) / charged GPU-seconds"),
        "tpot_gpu": ("GPU·ms", "mean TPOT x reserved GPUs: what one token of a request takes"),
        "tpot_charged_gpu": (
            "GPU·ms",
            "mean TPOT x GPUs charged while rank 0 runs a decode step, mean over that time",
        ),
        "utilisation_base": (
            "%",
            "computation / wall time, over base ranks and all steps; where steps were sampled, "
            "these stand for all of their kind",
        ),
        "utilisation_pool": ("%", "the same over pool ranks"),
        "overlap_efficiency": (
            "%",
            "hidden / (hidden + exposed) communication, over all ranks; hidden is an upper bound: "
            "computation while an exchange was in flight; of sampled steps as for utilisation",
        ),
        "energy_per_output_token": (
            "J/token",
            "energy of all reserved GPUs during the measured passes / output tokens; NVML's, of "
            "whole devices: idle power and whatever else runs on them included; a GPU that "
            "several ranks share counts once",
        ),
        "energy_per_token": ("J/token", "the same energy / (input + output tokens)"),
        "energy_base_per_output_token": (
            "J/token",
            "energy of the GPUs of base ranks / output tokens; none where base and pool share one",
        ),
        "energy_pool_per_output_token": (
            "J/token",
            "the same of pool ranks, also while they idle: their share of the sum",
        ),
    }
)
"""Metric -> (unit, definition), in the order in which they are shown."""

UNRATED = frozenset({"gpus", "charged_gpus"})
"""Metrics that are no achievement: a ratio of two of them says nothing."""

HIGHER_IS_BETTER = frozenset(
    {name for name in DEFINITIONS if name.startswith(("tps", "utilisation", "overlap"))}
)


def definitions(*, on_gpus: bool = True) -> Mapping[str, tuple[str, str]]:
    """`DEFINITIONS`, in the words of the machine: ranks without a GPU are not called GPUs.

    Energy is of devices, which ranks may share.
    """
    if on_gpus:
        return DEFINITIONS
    return {
        name: tuple(part.replace("GPU", _called(name)) for part in words)
        for name, words in DEFINITIONS.items()
    }


def _called(name: str) -> str:
    return "device" if name.startswith("energy") else "rank"


def per_request(tables: Tables) -> pd.DataFrame:
    """One row per finished request: repeat, request, context, output, ttft_ms, tpot_ms.

    `tpot_ms` is missing (NaN) for an output of one token, which has no time between tokens.
    """
    rows = tables.requests
    found = rows[["repeat", "request", "context", "output"]].copy()
    found["ttft_ms"] = (rows["first_token_ns"] - rows["admitted_ns"]) / 1e6
    gaps = rows["output"].where(rows["output"] > 1) - 1
    found["tpot_ms"] = (rows["last_token_ns"] - rows["first_token_ns"]) / gaps / 1e6
    return found


def per_repeat(tables: Tables) -> pd.DataFrame:
    """One row per repeat: elapsed_s, input_tokens, output_tokens, tps."""
    lanes = tables.steps.groupby("repeat")
    elapsed = lanes["end_ns"].max() - lanes["start_ns"].min()
    tokens = tables.requests.groupby("repeat")[["context", "output"]].sum()
    found = pd.DataFrame({"elapsed_s": elapsed / 1e9}).join(tokens).fillna(0)
    found = found.rename(columns={"context": "input_tokens", "output": "output_tokens"})
    found["tps"] = _ratio(found["input_tokens"] + found["output_tokens"], found["elapsed_s"])
    return found.reset_index()


def metrics(tables: Tables, parted: Breakdown) -> dict[str, float | None]:
    """Every metric of `DEFINITIONS`, in its unit; None where the run has nothing to measure."""
    found: dict[str, float | None] = {"gpus": tables.spec.plan.world}
    requests, repeats, steps = per_request(tables), per_repeat(tables), parted.steps
    for name in ("ttft", "tpot"):
        found |= _spread(name, requests[f"{name}_ms"].dropna().to_numpy())
    decode = undisturbed(tables.steps)
    decode_ns = decode["end_ns"] - decode["start_ns"]
    elapsed = repeats["elapsed_s"].sum()
    tokens = repeats["input_tokens"].sum() + repeats["output_tokens"].sum()
    charged = charge(tables)
    found |= {
        "charged_gpus": charged.gpus,
        "decode_step": float(decode_ns.median()) / 1e6 if len(decode_ns) else None,
        "tps": _ratio(tokens, elapsed),
        "tps_output": _ratio(repeats["output_tokens"].sum(), elapsed),
        "tps_per_gpu": _ratio(tokens, elapsed * tables.spec.plan.world),
        "tps_per_charged_gpu": _ratio(tokens, elapsed * (charged.gpus or 0)),
        "tpot_gpu": _product(found["tpot_mean"], tables.spec.plan.world),
        "tpot_charged_gpu": _product(found["tpot_mean"], charged.decode_gpus),
    }
    found |= _energy(tables, repeats) | _shares(steps if any_spans(tables.steps) else steps[:0])
    return {name: found[name] for name in DEFINITIONS}


def _shares(steps: pd.DataFrame) -> dict[str, float | None]:
    """What is computed and hidden of parted steps, by role; None for all of none."""
    found = {}
    for role in Role:
        own = steps[steps["role"] == role]
        found[f"utilisation_{role}"] = _percent(_sum(own, "compute_ns"), _sum(own, "wall_ns"))
    hidden, exposed = _sum(steps, "hidden_ns"), _sum(steps, f"{Category.COMMUNICATION}_ns")
    found["overlap_efficiency"] = _percent(hidden, hidden + exposed)
    return found


def _energy(tables: Tables, repeats: pd.DataFrame) -> dict[str, float | None]:
    took, output = joules(tables), repeats["output_tokens"].sum()
    found = {"energy_per_output_token": took.get(None)}
    found |= {f"energy_{role}_per_output_token": took.get(role) for role in Role}
    rates = {name: None if j is None else _ratio(j, output) for name, j in found.items()}
    every = took.get(None)
    tokens = repeats["input_tokens"].sum() + output
    return rates | {"energy_per_token": None if every is None else _ratio(every, tokens)}


def _sum(steps: pd.DataFrame, part: str) -> float:
    return float((steps[part] * steps["weight"]).sum())


def _spread(name: str, values: np.ndarray) -> dict[str, float | None]:
    if not len(values):
        return dict.fromkeys([f"{name}_{part}" for part in ("mean", "p50", "p90", "p99")])
    found = {f"{name}_p{q}": float(np.percentile(values, q)) for q in (50, 90, 99)}
    return {f"{name}_mean": float(values.mean())} | found


def _ratio(part, whole):
    """Part over whole; None for a single zero `whole`, NaN for those of a column."""
    if isinstance(whole, pd.Series):
        return part / whole.where(whole > 0)
    return float(part / whole) if whole else None


def _percent(part: float, whole: float) -> float | None:
    return None if not whole else float(100 * part / whole)


def _product(value: float | None, factor: float | None) -> float | None:
    return None if value is None or factor is None else value * factor
