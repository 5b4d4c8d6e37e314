"""Rank processes that attend prompts dealt out over them, and what became of each.

parent: attend(cases, world) -> per case, the outputs [S, H, D] by rank
child:  python -m tests.runtime.sequence.sharded_ranks RANK PORT FOLDER
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson
import torch
import torch.distributed as dist

from fapool.runtime.attention import BACKENDS
from fapool.runtime.sequence.carriers import carrier as best_carrier
from fapool.runtime.sequence.messages import Messages
from fapool.runtime.sequence.pacing import Pace
from fapool.runtime.sequence.sharded import ShardedKeys
from fapool.runtime.sequence.shared import SharedKeys
from fapool.runtime.sequence.symmetric import Symmetric
from fapool.runtime.sequence.zigzag import Zigzag
from tests.processes import ROOT, python_path

PATIENCE_S = 100


@dataclass(frozen=True, kw_only=True)
class Case:
    """One prompt and how it is attended, twice over with fresh inputs: `seed` and `seed` + 1."""

    ranks: int
    tokens: int
    heads: int = 4
    kv_heads: int = 2
    dim: int = 16
    scheme: str = "shared"
    carrier: str = "best"  # or "messages"
    backend: str = "cpu"
    dtype: str = "float32"
    slow: bool = False  # paced as if messages were slow: every message a call of its own
    times: int = 2
    seed: int = 0


def prompt(case: Case, time: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """q [S, H, D], k and v [S, K, D] of the whole prompt."""
    rng = torch.Generator().manual_seed(case.seed + time)
    shapes = [(case.tokens, heads, case.dim) for heads in (case.heads, *2 * (case.kv_heads,))]
    return tuple(
        torch.randn(shape, generator=rng).to(getattr(torch, case.dtype)) for shape in shapes
    )


def attend(cases: list[Case], world: int, device: str, folder: Path) -> list[list[list]]:
    """[case][rank][time] -> out of that rank's tokens."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    (folder / "cases.json").write_bytes(orjson.dumps([device, world, [asdict(c) for c in cases]]))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": python_path()}
    command = [sys.executable, "-m", "tests.runtime.sequence.sharded_ranks"]
    logs = [(folder / f"rank{rank}.txt").open("w+") for rank in range(world)]
    processes = [
        subprocess.Popen(
            [*command, str(rank), str(store.port), str(folder)],
            cwd=ROOT,
            env=environment,
            stdout=logs[rank],
            stderr=subprocess.STDOUT,
        )
        for rank in range(world)
    ]
    try:
        codes = [process.wait(PATIENCE_S) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    tails = [(folder / f"rank{rank}.txt").read_text()[-2000:] for rank in range(world)]
    assert not any(codes), "\n".join(tails)
    found = [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(world)]
    return [[found[rank][at] for rank in range(case.ranks)] for at, case in enumerate(cases)]


def make(case: Case, rank: int, group, shards: Zigzag, device: torch.device, pace: Pace):
    """The scheme of a case over carriers of its kind."""
    rows = Zigzag(num_tokens=shards.num_tokens + 7, num_ranks=shards.num_ranks).capacity

    def carrier(*shapes: tuple[int, ...]):
        if case.carrier == "messages":
            return Messages(group)
        dtypes = [
            getattr(torch, case.dtype) if len(shape) == 3 else torch.float32 for shape in shapes
        ]
        like = [
            torch.empty(shape, dtype=dtype, device=device)
            for shape, dtype in zip(shapes, dtypes, strict=True)
        ]
        found = best_carrier(group, max_rows=rows, like=like)
        assert type(found) is (Symmetric if device.type == "cuda" else Messages)
        return found

    kernel, keys, heads = BACKENDS[case.backend], (0, case.kv_heads, case.dim), case.heads
    if case.scheme == "shared":
        return SharedKeys(kernel, carrier(keys, keys), rank, pace=pace)
    asking, answering = carrier((0, heads, case.dim)), carrier((0, heads, case.dim), (0, heads))
    return ShardedKeys(kernel, asking, answering, rank, pace=pace)


def play(case: Case, rank: int, group: dist.ProcessGroup, device: torch.device) -> list:
    """The rank's part of a case."""
    shards = Zigzag(num_tokens=case.tokens, num_ranks=case.ranks)
    pace = Pace(link_bytes_per_s=1.0, call_s=0.0) if case.slow else Pace()
    attention = make(case, rank, group, shards, device, pace)
    mine = torch.tensor(shards.positions(rank), dtype=torch.long)
    # Inputs first, calls in one go: exchanges follow each other as fast as they can.
    inputs = [[x[mine].to(device) for x in prompt(case, time)] for time in range(case.times)]
    outputs = [attention(q, k, v, shards) for q, k, v in inputs]
    return [out.cpu() for out in outputs]


def main(rank: int, port: int, folder: Path) -> None:
    torch.set_num_threads(1)
    kind, world, cases = orjson.loads((folder / "cases.json").read_bytes())
    device = torch.device(kind, rank) if kind == "cuda" else torch.device(kind)
    if kind == "cuda":
        torch.cuda.set_device(device)
    store = dist.TCPStore("127.0.0.1", port, is_master=False)
    backend = "nccl" if kind == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=world)
    groups = {n: dist.new_group(list(range(n))) for n in range(2, world + 1)}
    found = []
    for case in (Case(**fields) for fields in cases):
        here = rank < case.ranks
        found.append(play(case, rank, groups[case.ranks], device) if here else [])
    torch.save(found, folder / f"rank{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
