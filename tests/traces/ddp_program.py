"""A small data-parallel program of nobody's in particular, profiled as torch's manual shows it."""

import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.profiler import ProfilerActivity, profile, schedule, tensorboard_trace_handler

STEPS, WARMUP, WIDTH = 3, 1, 64
ON_CPUS, ON_GPUS = [ProfilerActivity.CPU], [ProfilerActivity.CPU, ProfilerActivity.CUDA]


def main(rank: int, store: str, folder: Path, kind: str) -> None:
    """Train a few steps on one of two ranks of a kind ("cpu", "cuda"); leave its trace."""
    torch.set_num_threads(1)
    device = torch.device(kind, rank) if kind == "cuda" else torch.device(kind)
    if kind == "cuda":
        torch.cuda.set_device(device)
    meeting = {"init_method": f"file://{store}", "rank": rank, "world_size": 2}
    backend = "nccl" if kind == "cuda" else "gloo"
    dist.init_process_group(backend, **meeting, timeout=timedelta(seconds=60))
    torch.manual_seed(0)
    layers = torch.nn.Sequential(torch.nn.Linear(WIDTH, WIDTH), torch.nn.Linear(WIDTH, 1))
    model = DistributedDataParallel(layers.to(device))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    handler = tensorboard_trace_handler(str(folder), worker_name=f"host-{rank}", use_gzip=True)
    plan = schedule(wait=0, warmup=WARMUP, active=STEPS, repeat=1)
    activities = ON_GPUS if kind == "cuda" else ON_CPUS
    with profile(activities=activities, schedule=plan, on_trace_ready=handler) as seen:
        for _ in range(WARMUP + STEPS):
            optimizer.zero_grad()
            model(torch.randn(8, WIDTH, device=device)).sum().backward()
            optimizer.step()
            seen.step()
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), sys.argv[4])
