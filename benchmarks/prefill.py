"""Causal attention of one prompt over all GPUs of a node: ours, the peers, and one GPU alone.

    torchrun --nproc-per-node 4 benchmarks/prefill.py --out results

32 heads x 128, bf16. Inputs and outputs lie sharded by sequence, as each method deals them out;
all transfers are in the time. Every result is held against fp32 on sampled rows, for two fresh
draws of random inputs, before it is timed: one that is wrong has no time. `ms` is the median over
repeats of CUDA events around the call, the slowest rank's, all ranks beginning together and with
the launches ahead of the device, as in a model of many layers: the device spins 2 ms before, which
also lets it cool. `cold_ms` is without the spin: the host launches from an idle device, and calls
follow each other closely, which costs the densest of them clock. Efficiency is against one GPU with
cuDNN, over all ranks; it can exceed 1, since at 128 K calls over parts run faster than the whole.
Writes `prefill-<n>gpu.json`, and target gpu.f when it ran on four GPUs.

What was predicted before the first measurement, from 600 TFLOP/s on one GPU (15.0, 61.5, 258.6 ms
at 32 K, 64 K, 128 K), 350 GB/s into every GPU and 3 TB/s for merging. A rank attends its own keys
first, a quarter of its work on 4 GPUs and half of it on 2; meanwhile at most 6/8 (2/4) of all
16 KiB a token arrive: 1.15 ms of 3.75 at 32 K on 4 GPUs, hidden but for 0.1 ms; entirely on 2.
Merging reads and writes 320 MiB (384 MiB) of partials at 32 K. So, in ms:

    tokens      8 K     32 K     64 K    128 K
    2 GPUs     0.58     7.65     31.0    129.8
    4 GPUs     0.40     3.95     15.6     65.1

Found on 2 GPUs: 0.474, 6.62, 29.0, 115.3. One GPU did 13.9, 56.2, 249 that day, and the merge runs
at 3.9 TB/s. The schedules of 4 ranks, with their traffic, played on 2 GPUs: 0.37, 3.46, 14.4, 60.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from targets import record
from torch import Tensor

from fapool.runtime.attention import BACKENDS
from fapool.runtime.sequence.messages import Messages
from fapool.runtime.sequence.sharded import ShardedKeys
from fapool.runtime.sequence.shared import SharedKeys
from fapool.runtime.sequence.symmetric import Symmetric
from fapool.runtime.sequence.zigzag import Zigzag

HEADS, DIM = 32, 128
TOKENS = (8 << 10, 32 << 10, 64 << 10, 128 << 10)
REPEATS = {8 << 10: 25, 32 << 10: 15, 64 << 10: 9, 128 << 10: 5}
COLD_TOKENS = 32 << 10  # beyond, launches no longer show
ERROR = 1e-2
HEAD_START_CYCLES = 4_000_000  # 2 ms: time to launch all of a call


@dataclass(frozen=True, kw_only=True)
class Method:
    """One way to do it. `positions` says which tokens lie here; `call` maps [S, H, D] to it."""

    name: str
    kind: str  # "one", "ours" or "peer"
    positions: Callable[[int], Tensor]
    call: Callable[..., Tensor] | None  # of q, k, v as `shape` makes them, and the prompt's tokens
    heads_first: bool = False  # takes and gives [1, H, S, D] instead


def zigzag_positions(tokens: int, rank: int, world: int) -> Tensor:
    """Head and tail: ours, and torch's load balance."""
    return torch.tensor(Zigzag(num_tokens=tokens, num_ranks=world).positions(rank))


def alone(rank: int) -> Method:
    """Rank 0 does the whole problem, the others nothing."""

    def call(q: Tensor, k: Tensor, v: Tensor, tokens: int) -> Tensor:
        return BACKENDS["cudnn"].dense(q[None], k[None], v[None], causal=True)[0][0]

    return Method(
        name="1 GPU, cuDNN",
        kind="one",
        positions=lambda tokens: torch.arange(tokens if rank == 0 else 0),
        call=call if rank == 0 else None,
    )


def ours(rank: int, world: int, longest: int) -> list[Method]:
    """Keys that travel, by writes and by messages, with both kernels; and queries that travel."""
    rows = Zigzag(num_tokens=longest, num_ranks=world).capacity
    x = torch.empty(0, HEADS, DIM, dtype=torch.bfloat16, device="cuda")
    lse = torch.empty(0, HEADS, device="cuda")
    group, cudnn = dist.group.WORLD, BACKENDS["cudnn"]
    keys = Symmetric(group, max_rows=rows, like=(x, x))
    asking = Symmetric(group, max_rows=rows, like=(x,))
    answering = Symmetric(group, max_rows=rows, like=(x, lse))
    schemes = {
        "fapool, keys shared": SharedKeys(cudnn, keys, rank),
        "fapool, keys shared, NCCL": SharedKeys(cudnn, Messages(group), rank),
        "fapool, keys sharded": ShardedKeys(cudnn, asking, answering, rank),
    }
    if BACKENDS["flash_attn"].unfit(device=x.device, dtype=x.dtype, head_dim=DIM) is None:
        schemes["fapool, keys shared, FA2"] = SharedKeys(BACKENDS["flash_attn"], keys, rank)
    return [
        Method(
            name=name,
            kind="ours",
            positions=partial(zigzag_positions, rank=rank, world=world),
            call=lambda q, k, v, tokens, scheme=scheme: scheme(
                q, k, v, Zigzag(num_tokens=tokens, num_ranks=world)
            ),
        )
        for name, scheme in schemes.items()
    ]


def context_parallel(rank: int, world: int) -> list[Method]:
    """torch's ring attention, balanced; all four of its ways."""
    cp = importlib.import_module(
        "torch.distributed.tensor.experimental._context_parallel._attention"
    )
    cp._cp_options.enable_load_balance = True
    aten = torch.ops.aten
    ops = {
        "cuDNN": partial(
            aten._scaled_dot_product_cudnn_attention, attn_bias=None, compute_log_sumexp=True
        ),
        "FA2": aten._scaled_dot_product_flash_attention,
    }

    def call(q: Tensor, k: Tensor, v: Tensor, tokens: int, op, rotation: str) -> Tensor:
        cp.set_rotate_method(rotation)
        attend, group = cp._templated_ring_attention, dist.group.WORLD
        return attend(group, 2, op, query=q, key=k, value=v, is_causal=True)[0]

    return [
        Method(
            name=f"torch CP, {rotation}, {kernel}",
            kind="peer",
            positions=partial(zigzag_positions, rank=rank, world=world),
            call=partial(call, op=op, rotation=rotation),
            heads_first=True,
        )
        for kernel, op in ops.items()
        for rotation in ("allgather", "alltoall")
    ]


def ulysses(rank: int, world: int) -> Method:
    """Heads for sequence by all-to-all, cuDNN on whole sequences of few heads, and back."""

    def scatter_heads(x: Tensor) -> Tensor:
        parts = x.view(x.shape[0], world, HEADS // world, DIM).transpose(0, 1).contiguous()
        whole = torch.empty_like(parts)
        dist.all_to_all_single(whole, parts)
        return whole.view(1, -1, HEADS // world, DIM)

    def call(q: Tensor, k: Tensor, v: Tensor, tokens: int) -> Tensor:
        out, _ = BACKENDS["cudnn"].dense(*map(scatter_heads, (q, k, v)), causal=True)
        out = out.contiguous()
        back = torch.empty_like(out)
        dist.all_to_all_single(back, out)
        return back.view(world, q.shape[0], HEADS // world, DIM).transpose(0, 1).reshape(q.shape)

    return Method(
        name="Ulysses, cuDNN",
        kind="peer",
        positions=lambda tokens: torch.arange(tokens).chunk(world)[rank],
        call=call,
    )


def usp(rank: int, world: int) -> list[Method]:
    """yunchang's LongContextAttention, zigzag, for every product of ring and Ulysses."""
    try:
        yunchang = importlib.import_module("yunchang")
        extract = importlib.import_module("yunchang.comm.extract_local").EXTRACT_FUNC_DICT
        attention_type = importlib.import_module("yunchang.kernels").AttnType.FA
    except ImportError as error:
        if rank == 0:
            print(f"USP is left out: {error}", flush=True)
        return []
    methods, groups = [], yunchang.globals.PROCESS_GROUP
    for heads_over in (n for n in range(1, world + 1) if world % n == 0):
        ring = world // heads_over
        yunchang.set_seq_parallel_pg(heads_over, ring, rank, world)
        mine = (groups.ULYSSES_PG, groups.RING_PG)
        attention = yunchang.LongContextAttention(ring_impl_type="zigzag", attn_type=attention_type)

        def positions(tokens: int, mine=mine, ring=ring, heads_over=heads_over) -> Tensor:
            groups.ULYSSES_PG, groups.RING_PG = mine
            every = torch.arange(tokens).view(1, -1, 1)
            return extract["zigzag"](every, rank, world, rd=ring, ud=heads_over).flatten()

        def call(q: Tensor, k: Tensor, v: Tensor, tokens: int, attention=attention) -> Tensor:
            return attention(q[None], k[None], v[None], causal=True)[0]

        name = f"USP, ulysses {heads_over} x ring {ring}, FA2"
        methods.append(Method(name=name, kind="peer", positions=positions, call=call))
    return methods


def sampled(tokens: int, world: int, rng: torch.Generator) -> Tensor:
    """Positions to check: borders of chunks, and 48 drawn ones."""
    borders = torch.arange(0, tokens + 1, tokens // (2 * world))
    near = torch.cat([borders - 1, borders]).clamp(0, tokens - 1)
    return torch.cat([near, torch.randint(tokens, (48,), generator=rng)]).unique()


def reference(q: Tensor, k: Tensor, v: Tensor, rows: Tensor) -> Tensor:
    """out [R, H, D] of some rows in fp32."""
    out = torch.empty(len(rows), HEADS, DIM, device=q.device)
    hidden = torch.arange(len(k), device=q.device) > rows.to(q.device)[:, None]
    for head in range(HEADS):
        scores = q[rows, head].float() @ k[:, head].float().T * DIM**-0.5
        out[:, head] = scores.masked_fill(hidden, -torch.inf).softmax(-1) @ v[:, head].float()
    return out


def dealt(method: Method, prompt: tuple[Tensor, ...]) -> list[Tensor]:
    """The rank's share of q, k, v, shaped as the method takes them."""
    mine = method.positions(len(prompt[0])).cuda()
    shares = [x[mine] for x in prompt]
    return [x.transpose(0, 1)[None].contiguous() for x in shares] if method.heads_first else shares


def error_of(method: Method, prompt, rows: Tensor, expected: Tensor) -> float:
    """Relative error of the worst of the sampled rows: late rows are small beside early ones."""
    worst = torch.zeros(1, device="cuda")
    if method.call is not None:
        mine = method.positions(len(prompt[0]))
        out = method.call(*dealt(method, prompt), len(prompt[0]))
        out = out[0].transpose(0, 1) if method.heads_first else out
        where = {position: at for at, position in enumerate(mine.tolist())}
        here = [(n, where[p]) for n, p in enumerate(rows.tolist()) if p in where]
        truth = expected[[n for n, _ in here]]
        off = out[[at for _, at in here]].float() - truth
        worst[0] = (off.flatten(1).norm(dim=1) / truth.flatten(1).norm(dim=1)).max()
        worst.nan_to_num_(nan=torch.inf)
    dist.all_reduce(worst, op=dist.ReduceOp.MAX)
    return worst.item()


def time_ms(method: Method, shares: list[Tensor], tokens: int, *, head_start: bool) -> float:
    """Median over repeats of the slowest rank's time."""
    together, events = torch.zeros(1, device="cuda"), []
    for number in range(REPEATS[tokens] + 2):
        torch.cuda.synchronize()
        dist.all_reduce(together)
        if head_start:
            torch.cuda._sleep(HEAD_START_CYCLES)
            dist.all_reduce(together)
        else:
            torch.cuda.synchronize()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        if method.call is not None:
            method.call(*shares, tokens)
        end.record()
        if number >= 2:
            events.append((start, end))
    torch.cuda.synchronize()
    times = torch.tensor([start.elapsed_time(end) for start, end in events], device="cuda")
    dist.all_reduce(times, op=dist.ReduceOp.MAX)
    return times.median().item()


def drawn(tokens: int, seed: int) -> tuple[Tensor, ...]:
    """q, k, v [S, H, D] of the whole prompt, equal on all ranks."""
    rng = torch.Generator("cuda").manual_seed(seed)
    shape = (tokens, HEADS, DIM)
    return tuple(
        torch.randn(shape, generator=rng, device="cuda", dtype=torch.bfloat16) for _ in range(3)
    )


def measure(method: Method, tokens: int, prompts: list, checks: list) -> dict:
    """One row of the table."""
    row = {"tokens": tokens, "method": method.name, "kind": method.kind}
    row |= {"ms": None, "cold_ms": None}
    try:
        row["error"] = max(
            error_of(method, prompt, *check) for prompt, check in zip(prompts, checks, strict=True)
        )
    except (RuntimeError, TypeError, NotImplementedError) as error:  # a peer that cannot
        return row | {"error": None, "failed": str(error)[:500]}
    if row["error"] < ERROR:
        shares = dealt(method, prompts[-1])
        row["ms"] = time_ms(method, shares, tokens, head_start=True)
        if tokens <= COLD_TOKENS:
            row["cold_ms"] = time_ms(method, shares, tokens, head_start=False)
    return row


def table(rows: list[dict], world: int) -> None:
    """Milliseconds, TFLOP/s per GPU and efficiency."""
    print(f"{'tokens':>7}  {'method':34}{'error':>9}{'ms':>9}{'cold':>9}{'TF/GPU':>8}{'eff':>7}")
    for r in rows:
        if r["ms"] is None:
            print(f"{r['tokens']:>7}  {r['method']:34}{r.get('failed', 'wrong')[:60]}")
            continue
        r["tflops_per_gpu"] = 2 * r["tokens"] ** 2 * HEADS * DIM / r["ms"] / 1e9
        if r["kind"] != "one":
            one = next(x for x in rows if x["kind"] == "one" and x["tokens"] == r["tokens"])
            r["tflops_per_gpu"] /= world
            r["efficiency"] = one["ms"] / r["ms"] / world
        cold = f"{r['cold_ms']:>9.3f}" if r["cold_ms"] else f"{'':9}"
        print(
            f"{r['tokens']:>7}  {r['method']:34}{r['error']:>9.1e}{r['ms']:>9.3f}{cold}"
            f"{r['tflops_per_gpu']:>8.0f}{r.get('efficiency', 1):>7.3f}"
        )


def verdict(rows: list[dict]) -> dict:
    """Ours against the best peer, and against one GPU, by tokens."""
    found = {}
    for tokens in sorted({row["tokens"] for row in rows}):
        timed = [row for row in rows if row["tokens"] == tokens and row["ms"]]
        here = next(row for row in timed if row["method"] == "fapool, keys shared")
        found[tokens] = {"efficiency": here["efficiency"]}
        for column, suffix in (("ms", ""), ("cold_ms", "_cold")):
            peers = [row for row in timed if row["kind"] == "peer" and row[column]]
            if peers:
                peer = min(peers, key=lambda row: row[column])
                found[tokens]["best_peer" + suffix] = peer["method"]
                found[tokens]["times_best_peer" + suffix] = peer[column] / here[column]
    return found


def record_target(found: dict, world: int, machine: str) -> dict | None:
    """gpu.f: it is about four GPUs."""
    wanted = {32 << 10, 64 << 10, 128 << 10}
    if world != 4 or not wanted <= set(found):
        return None
    peer = found[32 << 10]["times_best_peer"]
    efficiencies = [found[tokens]["efficiency"] for tokens in (64 << 10, 128 << 10)]
    return record(
        "gpu.f",
        value={
            "times_best_peer_32k": peer,
            "times_best_peer_cold_32k": found[32 << 10].get("times_best_peer_cold"),
            "efficiency_64k_128k": efficiencies,
        },
        target={"times_best_peer_32k": 1.2, "efficiency_64k_128k": 0.93},
        holds=peer >= 1.2 and min(efficiencies) >= 0.93,
        what="prefill attention over 4 GPUs, sharded by sequence, every transfer included",
        machine=machine,
    )


def main() -> None:
    """Check and time every method at every length."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tokens", type=int, nargs="*", default=TOKENS)
    options = parser.parse_args()
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(device)
    dist.init_process_group("nccl", device_id=device)
    methods = [alone(rank), *ours(rank, world, max(options.tokens))]
    methods += [*context_parallel(rank, world), ulysses(rank, world), *usp(rank, world)]
    rows = []
    for tokens in options.tokens:
        prompts = [drawn(tokens, seed) for seed in (tokens, tokens + 1)]
        positions = sampled(tokens, world, torch.Generator().manual_seed(tokens))
        checks = [(positions, reference(*prompt, positions)) for prompt in prompts]
        for method in methods:
            with torch.no_grad():
                rows.append(measure(method, tokens, prompts, checks))
            if rank == 0:
                print(json.dumps(rows[-1]), flush=True)
        del prompts, checks
        torch.cuda.empty_cache()
    if rank == 0:
        report(rows, world, options.out)
    dist.barrier()
    dist.destroy_process_group()


def report(rows: list[dict], world: int, folder: Path) -> None:
    """The JSON, the target and the table."""
    table(rows, world)
    found, machine = verdict(rows), f"{world} x {torch.cuda.get_device_name()}"
    print(json.dumps(found))
    versions = {"torch": torch.__version__, "cuda": torch.version.cuda}
    versions |= {"nccl": ".".join(map(str, torch.cuda.nccl.version()))}
    versions |= {"cudnn": torch.backends.cudnn.version()}
    result = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": {"machine": machine} | versions,
        "shape": {"heads": HEADS, "kv_heads": HEADS, "dim": DIM, "dtype": "bfloat16"},
        "against": found,
        "target": record_target(found, world, machine),
        "rows": rows,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"prefill-{world}gpu.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
