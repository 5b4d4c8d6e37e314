"""The exchange between base and pool, and small sums over ranks, from CUDA graphs: microseconds.

    torchrun --nproc-per-node 2 benchmarks/exchange.py --out benchmarks/results

Round trip: ask -> queries -> answer -> collect of FAPool(1, n - 1), 32 heads of 128, as many KV
heads, bf16, without any attention: the time of a graph of 32 layers, each of which waits for the
one before, over 32. One-sided stores against NCCL messages. Send: `ask` alone, bytes of one partner
over its time. Sums: [B, 4096] bf16, a graph of 32 sums, over 32; one kernel of ours against NCCL
and torch's one-shot (with and without the copy into shared memory) and two-shot kernels.

SmallSum takes that kernel, two shots or NCCL by size. Everything is checked against fp64 or fp32 on
the same inputs before it is timed. Median over replays, slowest rank. Writes `exchange.json`.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed._symmetric_memory as symmetric_memory

from fapool.runtime.exchange import message_link, symmetric
from fapool.runtime.exchange.reduction import SmallSum
from fapool.runtime.partial import Partial
from fapool.spec import FAPool, Model, RunSpec, Workload

LAYERS, REPLAYS, HEADS, DIM, WIDTH = 32, 30, 32, 128, 4096
ROWS, SENT_ROWS, SUM_ROWS = (1, 16, 64), (64, 256, 1024), (1, 2, 4, 8, 16, 32, 64, 256)
KINDS = {"symmetric": symmetric.open_links, "messages": message_link.open_links}
PATIENCE = 1 << 25  # polls of a flag; then the kernel traps


def make_spec(world: int) -> RunSpec:
    sizes = {"layers": LAYERS, "hidden": HEADS * DIM, "ffn": 4 * HEADS * DIM, "vocab": 512}
    model = Model(heads=HEADS, kv_heads=HEADS, head_dim=DIM, dtype="bfloat16", **sizes)
    plan = FAPool(base=1, pool=world - 1)
    return RunSpec(model=model, plan=plan, workload=Workload(batch=1, context=8, output=2))


class Given:
    """What is asked and answered, alike on every rank; the pages that new keys go to."""

    def __init__(self, rows: int, columns: int, device: torch.device) -> None:
        torch.manual_seed(rows)
        shape = rows, HEADS, DIM
        self.q, self.k, self.v = torch.randn(3, *shape, device=device).bfloat16()
        self.out = torch.randn(columns, *shape, device=device).bfloat16()
        self.lse = torch.randn(columns, rows, HEADS, device=device)
        self.pages = torch.zeros(2, -(-rows // 256), 256, HEADS, DIM, device=device).bfloat16()
        self.slots = torch.arange(rows, dtype=torch.int32, device=device)

    def merged(self) -> torch.Tensor:
        share = torch.softmax(self.lse.double(), dim=0)[..., None]
        return (share * self.out.double()).sum(0)


def step(link, given: Given, rank: int) -> list[torch.Tensor]:
    """All layers of a step at one rank; what the last one brought."""
    link.begin(len(given.q))
    found = []
    for layer in range(LAYERS):
        if rank == 0:
            link.ask(layer, given.q, given.k, given.v)
            found = [link.collect(layer, None)]
        else:
            found = link.queries(layer, (given.pages[0], given.pages[1], given.slots))
            link.answer(layer, Partial(given.out[rank - 1], given.lse[rank - 1]))
    return list(found)


def check(found: list[torch.Tensor], given: Given, rank: int) -> None:
    expected = [given.merged()] if rank == 0 else [given.q, given.k, given.v]
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a.double(), b.double(), rtol=1e-2, atol=1e-2)
    if rank:
        assert torch.equal(given.pages[0].flatten(0, 1)[: len(given.q)], given.k)


def captured(body: Callable[[], object]) -> Callable[[], None]:
    body()
    torch.cuda.synchronize()
    dist.barrier()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        body()
    return graph.replay


def time_us(replay: Callable[[], None], before: Callable[[], object] = lambda: None) -> float:
    """Median of the replays, slowest rank."""
    took = []
    for _ in range(REPLAYS + 3):
        before()
        dist.barrier()
        torch.cuda.synchronize()
        events = [torch.cuda.Event(enable_timing=True) for _ in "12"]
        events[0].record()
        replay()
        events[1].record()
        torch.cuda.synchronize()
        took.append(events[0].elapsed_time(events[1]) * 1e3)
    slowest = torch.tensor(sorted(took[3:])[REPLAYS // 2], device="cuda")
    dist.all_reduce(slowest, op=dist.ReduceOp.MAX)
    return slowest.item()


def round_trips(rank: int, world: int, device: torch.device) -> list[dict]:
    spec, rows_found = make_spec(world), []
    for kind, open_links in KINDS.items():
        more = {"patience": PATIENCE} if kind == "symmetric" else {}
        made = {"rows": max(ROWS), "dtype": torch.bfloat16, "device": device}
        (link,) = open_links(spec, rank, group=dist.group.WORLD, **made, **more)
        for rows in ROWS:
            given = Given(rows, world - 1, device)
            check(step(link, given, rank), given, rank)
            took = time_us(captured(partial(step, link, given, rank))) / LAYERS
            rows_found.append({"what": "round trip", "by": kind, "rows": rows, "us": took})
    return rows_found


def sends(rank: int, world: int, device: torch.device) -> list[dict]:
    """`ask` without anybody who listens: flags only grow."""
    rows_found = []
    made = {"rows": max(SENT_ROWS), "dtype": torch.bfloat16, "device": device}
    (link,) = symmetric.open_links(make_spec(world), rank, group=dist.group.WORLD, **made)
    for rows in SENT_ROWS:
        given = Given(rows, 1, device)
        link.begin(rows)

        def body(link=link, given=given) -> None:
            for _ in range(LAYERS if rank == 0 else 0):
                link.ask(0, given.q, given.k, given.v)

        took = time_us(captured(body) if rank == 0 else _nothing(body)) / LAYERS
        num_bytes = 3 * given.q.nbytes * (world - 1)
        found = {"what": "send", "by": "symmetric", "rows": rows, "us": took}
        rows_found.append(found | {"gb_per_s": num_bytes / took / 1e3})
    return rows_found


def _nothing(body: Callable[[], None]) -> Callable[[], None]:
    dist.barrier()
    return body


def sum_ways(world: int, device: torch.device) -> dict[str, Callable]:
    """Name -> (x -> its sum), each for x of the largest size or smaller."""
    name = dist.group.WORLD.group_name
    small = SmallSum(dist.group.WORLD, device, patience=PATIENCE)
    wide = SmallSum(dist.group.WORLD, device, limit_bytes=1 << 19, patience=PATIENCE)
    shared = symmetric_memory.empty(max(SUM_ROWS) * WIDTH, dtype=torch.bfloat16, device=device)
    symmetric_memory.rendezvous(shared, dist.group.WORLD)
    ops = torch.ops.symm_mem

    def one_kernel(x):
        return wide.sum(x) if wide.fits(x) else None

    def nccl(x):
        dist.all_reduce(x)
        return x

    def one_shot(x):
        return ops.one_shot_all_reduce(shared[: x.numel()], "sum", name)

    def one_shot_copy(x):
        return ops.one_shot_all_reduce_copy(shared[: x.numel()], x.view(-1), "sum", name)

    def two_shot(x):
        return ops.two_shot_all_reduce_(shared[: x.numel()], "sum", name)

    def fill(x):
        shared[: x.numel()].copy_(x.view(-1))

    ways = {"SmallSum": small.sum, "one kernel": one_kernel, "nccl": nccl, "one_shot": one_shot}
    return ways | {"one_shot_copy": one_shot_copy, "two_shot": two_shot, "fill": fill}


def sums(rank: int, world: int, device: torch.device) -> list[dict]:
    ways, rows_found = sum_ways(world, device), []
    fill = ways.pop("fill")
    for rows in SUM_ROWS:
        torch.manual_seed(rows)
        parts = 1e-3 * torch.randn(world, rows, WIDTH, device=device).bfloat16()
        x, expected = parts[rank].clone(), parts.float().sum(0)
        for name, way in ways.items():

            def again(x=x, part=parts[rank]) -> None:
                x.copy_(part)
                fill(x)

            again()
            dist.barrier()
            found = way(x)
            if found is None:
                continue
            error = (found.view_as(expected).float() - expected).abs().max()
            assert error <= 1e-2 * expected.abs().max(), (name, rows, error)

            def body(way=way, x=x) -> None:
                for _ in range(LAYERS):
                    way(x)

            took = time_us(captured(body), again) / LAYERS
            rows_found.append({"what": "sum", "by": name, "rows": rows, "us": took})
    return rows_found


def report(rows: list[dict], world: int, folder: Path) -> None:
    properties = torch.cuda.get_device_properties(0)
    environment = {"gpu": properties.name, "gpus": world, "torch": torch.__version__}
    environment["nccl"] = ".".join(map(str, torch.cuda.nccl.version()))
    result = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "environment": environment}
    rows = [r | {"us": round(r["us"], 2)} for r in rows]
    (folder / "exchange.json").write_text(json.dumps(result | {"rows": rows}, indent=2) + "\n")
    for what in dict.fromkeys(r["what"] for r in rows):
        mine = [r for r in rows if r["what"] == what]
        columns = sorted({r["rows"] for r in mine})
        print(f"\n{what + ', us':16}" + "".join(f"{f'B {n}':>9}" for n in columns))
        for by in dict.fromkeys(r["by"] for r in mine):
            took = {r["rows"]: r["us"] for r in mine if r["by"] == by}
            print(f"{by:16}" + "".join(f"{took.get(n, float('nan')):>9.2f}" for n in columns))
        if what == "send":
            print(f"{'GB/s':16}" + "".join(f"{r['gb_per_s']:>9.1f}" for r in mine))


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    folder = parser.parse_args().out
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(device)
    dist.init_process_group("nccl", device_id=device)
    rows = [row for part in (round_trips, sends, sums) for row in part(rank, world, device)]
    if rank == 0:
        report(rows, world, folder)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
