"""A stand-in for `fapool.rank`: all-reduces over gloo instead of a model.

The spec's name says how it behaves: `raise` (rank 1 raises at step 3), `leave` (rank 1 exits),
`hang` (rank 1 sleeps at step 3), anything else behaves.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import psutil
import torch
import torch.distributed as dist

from fapool.phases import TABLES, Category
from fapool.sample import Sample
from fapool.spec import RunSpec
from fapool.store import RunFolder

STEP_S = 0.02
_kept: list[dist.TCPStore] = []


def describe(rank: int) -> dict:
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "device": "cpu",
        "device_name": "cpu",
        "capacity_bytes": psutil.virtual_memory().total,
    }


def open_store() -> tuple[str, int]:
    _kept[:] = [dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)]
    return "127.0.0.1", _kept[0].port


def run(
    spec: RunSpec,
    *,
    rank: int,
    store: tuple[str, int],
    folder: Path,
    publish: Callable[[Sample], None],
) -> str:
    run_folder = RunFolder(folder)
    client = dist.TCPStore(*store, is_master=False, timeout=timedelta(seconds=30))
    dist.init_process_group("gloo", store=client, rank=rank, world_size=spec.plan.world)
    try:
        ending = steps(spec, rank, run_folder, publish)
        dist.barrier()
        if rank == 0:
            write(run_folder, spec)
        return ending
    except Exception as error:
        run_folder.note_failure(rank, f"{type(error).__name__}: {error}")
        raise
    finally:
        dist.destroy_process_group()


def steps(spec: RunSpec, rank: int, folder: RunFolder, publish: Callable[[Sample], None]) -> str:
    for step in range(spec.workload.output):
        publish(sample(spec, rank, step))
        with folder.log(rank).open("a") as lines:
            lines.write(f"rank {rank} is at step {step}\n")
        if rank == 1 and step == 3:
            misbehave(spec.name)
        time.sleep(STEP_S)
        stop = torch.tensor([int(rank == 0 and folder.stop_file.exists())])
        dist.all_reduce(stop)
        if stop.item():
            return "stopped"
    return "finished"


def misbehave(how: str) -> None:
    if how == "raise":
        raise ArithmeticError("two and two are five")
    if how == "leave":
        os._exit(7)
    if how == "hang":
        time.sleep(1000)


def sample(spec: RunSpec, rank: int, step: int) -> Sample:
    return Sample(
        rank=rank,
        role="base",
        sequence=step,
        stage="running",
        step=step,
        steps=spec.workload.output,
        elapsed_ns=0,
        wall_ns=0,
        category_ns=dict.fromkeys(Category, 0),
        tokens=step,
        tpot_ms=None,
        leases=0,
        memory_bytes={},
        capacity_bytes=1,
        how="host clock",
    )


def write(folder: RunFolder, spec: RunSpec) -> None:
    folder.write_json("environment.json", {"world": spec.plan.world})
    folder.write_json("correctness.json", {"passed": True})
    assert TABLES
    folder.merge_parts()
