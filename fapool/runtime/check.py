"""The check that every run passes before it may record performance: a small workload on the very
seat of the run, its logits against the one-device reference in fp64.

The workload crosses what could go wrong: lengths at, below and above the threshold and the block
border, a lease from the start, one in the middle of decoding, prompts in several chunks, more
requests than slots, half-batches and whole ones. The plan's threshold is lowered for it, so that
it stays small. Where nothing is decoded and the base joins the pool late, the pool's opening is
shortened, too, and prompts end around the block with which the base joins.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fapool.balance import only_prefills, prefill_turns
from fapool.errors import CheckFailed
from fapool.forecast.buffers import PROBE_BATCH, PROBE_BLOCKS
from fapool.runtime.attention.base import Backend
from fapool.runtime.attention.reference import Reference
from fapool.runtime.reference import reference_logits
from fapool.runtime.tokens import prompt
from fapool.spec import FAPool, Model, Plan, Rehearsal, RunSpec, Workload
from fapool.topology import lease_width, pool_mesh
from fapool.workload import Request

TOLERANCE = {"float64": 1e-9, "float32": 2e-5, "bfloat16": 3e-2, "float16": 4e-3}
"""Largest relative error of a request's logits, |plan - reference| / |reference| (2-norms).

Rounding alone gives about 1e-15, 1e-6, 1e-2 and 1e-3 on the presets.
"""

EXACT = ("float64", "float32")
"""Dtypes in which the tokens chosen must be the reference's, too."""

OUTPUT = 6

OPENING = 2
"""KV blocks that are the pool's alone at the start of a prompt, at most, before the base joins."""


def probe(spec: RunSpec) -> tuple[RunSpec, list[Request]]:
    """The small workload of a spec: a spec with a low threshold, and requests around it."""
    joins = isinstance(spec.plan, FAPool) and spec.plan.base_attends and only_prefills(spec)
    plan, lengths = _around_joining(spec) if joins else _around_threshold(spec)
    output = 1 if joins else OUTPUT
    work = Workload(batch=PROBE_BATCH, context=max(lengths), output=output)
    small = spec.replace(plan=plan, workload=work, prefill_chunk=PROBE_BLOCKS * spec.block)
    requests = [
        Request(id=i, context=max(1, length), output=output) for i, length in enumerate(lengths)
    ]
    return small, requests


def _around_threshold(spec: RunSpec) -> tuple[Plan, tuple[int, ...]]:
    """The plan with a low threshold, and prompts that end around it, in tokens."""
    block, plan = spec.block, spec.plan
    threshold = min(spec.threshold or 2 * block + 3, 2 * block + 3)
    if isinstance(plan, FAPool):
        plan = plan.model_copy(update={"threshold": threshold, "overlap": _overlap(plan)})
    lengths = (threshold - 2, threshold, threshold + 1, max(1, block // 2), threshold + block + 1)
    return plan, lengths


def _around_joining(spec: RunSpec) -> tuple[Plan, tuple[int, ...]]:
    """The plan with a short opening, and prompts that end around the border where the base joins
    and past the round of turns after it, in tokens; the last is not leased.
    """
    block, plan, columns = spec.block, spec.plan, lease_width(spec)
    groups, _ = pool_mesh(spec.model, plan)
    opening, (kept, turn) = prefill_turns(spec, columns, columns * groups)
    opening = min(opening, OPENING)
    border, later = opening * block, (kept + columns * turn) * block
    changes = {"threshold": block, "overlap": _overlap(plan), "opening": opening}
    past_a_round = border + later + block + 1
    lengths = (border - 1, past_a_round, border, border + 1, block)
    return Rehearsal(**(plan.model_dump() | changes)), lengths


def _overlap(plan: FAPool) -> str:
    return "never" if plan.overlap == "never" else "always"


def prove(backend: Backend, model: Model, device: torch.device) -> None:
    """Hold a kernel that has a grain against fp64 where it is filled, as in the probe it is not.

    Raises:
        CheckFailed: its output is not the reference's; says by how much.
    """
    grain = getattr(backend, "grain", None)
    if grain is None:
        return
    shape, dtype = (model.heads // model.kv_heads, model.head_dim), getattr(torch, model.dtype)
    draw = torch.Generator(device).manual_seed(0)
    for queries, keys in ((grain, grain), (grain, 3 * grain + grain // 3)):
        q, k, v = (
            torch.randn(1, tokens, heads, shape[1], dtype=dtype, device=device, generator=draw)
            for tokens, heads in ((queries, shape[0]), (keys, 1), (keys, 1))
        )
        found, expected = (
            kernel.dense(q, k, v, causal=queries == keys)[0].double()
            for kernel in (backend, Reference())
        )
        error = float((found - expected).norm() / expected.norm())
        if not error <= TOLERANCE[model.dtype]:
            raise CheckFailed(
                f"{backend.name} attends {queries} queries over {keys} keys with an error of "
                f"{error:.1e}, more than {TOLERANCE[model.dtype]:.0e}: choose another backend"
            )


def compare(
    spec: RunSpec,
    requests: list[Request],
    chosen: dict[int, list[int]],
    logits: dict[int, list[Tensor]],
    device: torch.device,
) -> dict[str, Any]:
    """What `correctness.json` says, of the tokens and logits that the last stage kept."""
    model = spec.model
    prompts = [prompt(r, vocab=model.vocab, seed=spec.seed) for r in requests]
    sequences = [
        torch.cat([start, torch.tensor(chosen[r.id][:-1], dtype=torch.int64)])
        for start, r in zip(prompts, requests, strict=True)
    ]
    errors, same, total = [], 0, 0
    for request, expected in zip(
        requests, reference_logits(model, spec.seed, sequences, device), strict=True
    ):
        expected = expected[request.context - 1 :]
        found = torch.stack(logits[request.id]).double()
        errors.append(float((found - expected).norm() / expected.norm()))
        best = expected.argmax(dim=-1).tolist()
        same += sum(a == b for a, b in zip(best, chosen[request.id], strict=True))
        total += request.output
    worst, tolerance = max(errors), TOLERANCE[model.dtype]
    equal = same == total or model.dtype not in EXACT
    return {
        "passed": bool(worst <= tolerance and equal),  # NaN does not pass
        "error": worst,
        "tolerance": tolerance,
        "tokens_equal": same,
        "tokens": total,
        "requests": [request.context for request in requests],
        "threshold": spec.threshold,
        "reference": f"one {device.type} device, fp64, whole sequences",
    }
