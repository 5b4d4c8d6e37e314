"""One of two gloo ranks that exchange and compute under a profiler: rank, store file, folder."""

import sys
from pathlib import Path

import torch
import torch.distributed as dist

from fapool.instrument.recorder import Recorder
from fapool.instrument.window import ProfilerWindow
from fapool.phases import Phase, Role
from fapool.store import RunFolder

STEPS = 4
PROFILED = 3


def main(rank: int, store: str, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(store, 2), rank=rank, world_size=2)
    role = (Role.BASE, Role.POOL)[rank]
    recorder = Recorder(rank=rank, role=role, device=torch.device("cpu"))
    window = ProfilerWindow(RunFolder(folder), rank, 2, recorder, 1, PROFILED)
    x = torch.ones(64, 64)
    for step in range(STEPS):
        window.step_begins(step)
        for layer in range(3):
            with recorder.span(Phase.FFN, layer=layer):
                x = (x @ x).clamp(max=1)
            with recorder.span(Phase.ALL_REDUCE, layer=layer, channel="0+1", sequence=layer):
                dist.all_reduce(x)
        window.step_ends(step)
    window.close()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
