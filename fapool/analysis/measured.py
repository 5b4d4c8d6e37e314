"""What was measured, in words: the model, what it ran on, the requests, the threshold in tokens."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pandas as pd

from fapool.analysis.study import Study
from fapool.analysis.wording import count
from fapool.spec import RangeWorkload, RunSpec, Workload


def measured(study: Study) -> dict[str, str]:
    """Heading -> words, of one run."""
    spec = study.run.spec
    return {
        "model": _model(spec),
        "ran on": machine(spec, study.run.ranks),
        "workload": _workload(spec, study.tables.requests),
        "threshold": _threshold(spec),
        "passes": _passes(spec),
    }


def on_gpus(study: Study) -> bool:
    """Whether its ranks are GPUs, as far as is known: what was not recorded is not denied."""
    recorded = [str(rank.get("device", "")) for rank in study.run.ranks]
    return study.run.spec.device != "cpu" and not (recorded and set(recorded) == {"cpu"})


def devices(study: Study) -> str:
    """Names of the GPUs of its ranks; `CPU` without any."""
    on_gpu = [rank for rank in study.run.ranks if str(rank.get("device")).startswith("cuda")]
    return ", ".join(sorted(set(map(_gpu_name, on_gpu)))) or ("GPU" if on_gpus(study) else "CPU")


def machine(spec: RunSpec, ranks: list[dict[str, Any]]) -> str:
    """Number and kind of devices, from the environment that each rank recorded."""
    world = spec.plan.world
    devices = {(rank.get("host"), str(rank.get("device"))): rank for rank in ranks}
    gpus = {place: rank for place, rank in devices.items() if place[1].startswith("cuda")}
    hosts = len({host for host, _ in devices})
    spread = f" on {hosts} hosts" if hosts > 1 else ""
    if gpus:
        names = ", ".join(sorted({_gpu_name(rank) for rank in gpus.values()}))
        found = f"{count(len(gpus), 'GPU')}: {names}{spread}"
        return found if len(gpus) == world else f"{count(world, 'rank')} on {found}"
    if not ranks and spec.device != "cpu":
        return f"{count(world, 'rank')}, device not recorded"
    cpus = [rank["cpu"] for rank in devices.values() if isinstance(rank.get("cpu"), dict)]
    names = ", ".join(sorted({str(cpu.get("name")) for cpu in cpus}))
    cores = sum(cpu.get("cores") or 0 for cpu in cpus)
    shared = f" on {count(cores, 'core')}: {names}" if cores else ""
    return f"{count(world, 'CPU rank')}{shared}{spread}"


def _gpu_name(rank: dict[str, Any]) -> str:
    index = str(rank["device"]).partition(":")[2] or "0"
    try:
        return str(rank["gpus"][int(index)]["name"])
    except (KeyError, IndexError, TypeError, ValueError):
        return "name not recorded"


def _model(spec: RunSpec) -> str:
    model = spec.model
    heads = f"{model.heads} heads"
    if model.kv_heads != model.heads:
        heads += f" ({model.kv_heads} of keys)"
    return (
        f"{model.name}: {count(model.layers, 'layer')}, hidden {model.hidden:,}, {heads} of "
        f"{model.head_dim}, FFN {model.ffn:,}; {model.dtype}, random weights"
    )


def _workload(spec: RunSpec, requests: pd.DataFrame) -> str:
    work = spec.workload
    if isinstance(work, Workload):
        return f"{count(work.batch, 'equal request')} of {work.context:,} + {work.output:,} tokens"
    once = requests[requests["repeat"] == requests["repeat"].min()]
    scale = f" × {_fraction(work.length_scale)}" if work.length_scale != 1 else ""
    drawn = isinstance(work, RangeWorkload)
    source = f"{work.shortest:,} to {work.longest:,} tokens" if drawn else work.path.name
    return (
        f"{count(work.sample, 'request')} of {source}{scale}, {work.batch} at once; "
        f"prompts of {_spread(once['context'])} tokens, outputs of {_spread(once['output'])} "
        "(least / median / most)"
    )


def _threshold(spec: RunSpec) -> str:
    if spec.threshold is None:
        return "none: no pool"
    scale = spec.workload.length_scale
    scaled = f" ({spec.plan.threshold:,} × {_fraction(scale)})" if scale != 1 else ""
    return f"leased past {spec.threshold:,} tokens{scaled}"


def _passes(spec: RunSpec) -> str:
    warm = "no warm-up" if not spec.warmup else f"after {count(spec.warmup, 'warm-up pass', 'es')}"
    return f"{count(spec.repeats, 'measured pass', 'es')}, {warm}"


def _spread(lengths: pd.Series) -> str:
    if lengths.empty:
        return "unknown"
    return f"{lengths.min():,} / {lengths.median():,.0f} / {lengths.max():,}"


def _fraction(scale: float) -> str:
    near = Fraction(scale).limit_denominator(4096)
    return str(near) if abs(float(near) - scale) < 1e-9 else f"{scale:g}"
