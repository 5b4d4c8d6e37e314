"""One of two ranks that align their clocks; prints what it found. Arguments: plan (JSON), rank."""

import os
import sys
import time

import orjson
import torch.distributed as dist

from fapool.instrument.clock import HostClock


def main(plan: dict, rank: int) -> None:
    if "interfaces" in plan:
        os.environ["GLOO_SOCKET_IFNAME"] = plan["interfaces"][rank]
    origin, drift = time.perf_counter_ns(), plan["drift"]

    def said(now: int) -> int:
        return now + plan["offset_ns"] + round(drift * (now - origin)) if rank else now

    def clock() -> int:
        return said(time.perf_counter_ns())

    dist.init_process_group("gloo", store=dist.FileStore(plan["store"], 2), rank=rank, world_size=2)
    host = HostClock(clock=clock, name=rank)  # in truth they share a clock
    times = []
    for _ in range(3):
        time.sleep(plan["pause_s"] / 2)
        truth = time.perf_counter_ns()
        times.append((truth, said(truth) + host.unix_offset_ns))
        host.ask()
    settle = host.settle()
    dist.destroy_process_group()
    found = {"about": host.about(), "unix_offset_ns": host.unix_offset_ns}
    found["times"] = [(truth, settle(told)) for truth, told in times]
    print(orjson.dumps(found).decode())


if __name__ == "__main__":
    main(orjson.loads(sys.argv[1]), int(sys.argv[2]))
