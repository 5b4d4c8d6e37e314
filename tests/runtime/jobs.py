"""What a process of the crew does: one function a job, the same arguments on every rank."""

from __future__ import annotations

import io
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import torch
import torch.distributed as dist

from benchmarks import planting
from fapool import rank as rank_side
from fapool.deals import BASE, Deal
from fapool.errors import ExchangeError
from fapool.instrument.recorder import Recorder
from fapool.phases import Phase
from fapool.runtime import plans
from fapool.runtime.control import Control
from fapool.runtime.engine import Engine
from fapool.runtime.seat import take
from fapool.spec import parse
from fapool.topology import place
from fapool.workload import Request
from tests.runtime.alive import watched

CPU = torch.device("cpu")
HOST = "127.0.0.1"


def play(rank: int, port: int, name: str, spec: str, requests: list) -> dict[str, Any] | None:
    """Generate for `requests` [(context, output)] by the spec's plan; what came of it here."""
    spec = parse(spec)
    if rank >= spec.plan.world:
        return None
    at = place(spec, rank)
    requests = [Request(id=i, context=c, output=o) for i, (c, o) in enumerate(requests)]
    with rank_side.meet(spec, at, CPU, (HOST, port), name) as (groups, control):
        recorder = Recorder(rank=rank, role=at.role, device=CPU)
        seat = take(spec, at, device=CPU, groups=groups, recorder=recorder)
        control = Control(control, rank=rank, world=at.world, stop_file=Path("/nowhere/stop"))
        plan = plans.make(seat, spec, requests, keep_logits=True)
        leases: list[dict] = []

        def after(step, totals, held) -> None:
            leased = {"leased": sorted(plan.leases), "bound": plan.bound}
            leases.append({"step": step.index, **leased})

        played = Engine(seat, recorder, control).play(plan, spec, requests, repeat=0, after=after)
        events, steps = recorder.columns()
        ending = getattr(plan, "ending", None)
        return {
            "tokens": played.tokens,
            "logits": {r: torch.stack(rows) for r, rows in ending.logits.items()} if ending else {},
            "leased_at": {r: timing.leased_at for r, timing in played.timings.items()},
            "leases": leases,
            "kv_bytes": plan.cache.num_bytes,
            "kv_used_at_end": plan.cache.used_bytes,
            "peak_buffers": seat.transport.peak_bytes,
            "events": events,
            "steps": steps,
        }


@contextmanager
def delayed(phase: Phase, seconds: float) -> Iterator[None]:
    """Meanwhile spans of `phase` begin with a sleep, in all of this process."""
    opens = Recorder.span

    @contextmanager
    def slow(span) -> Iterator[None]:
        with span:
            time.sleep(seconds)
            yield

    def span(self, name: Phase, **labels: Any):
        found = opens(self, name, **labels)
        return slow(found) if name is phase else found

    Recorder.span = span
    try:
        yield
    finally:
        Recorder.span = opens


@contextmanager
def overlooking(keeper: int, past: int) -> Iterator[None]:
    """Meanwhile `keeper` overlooks its last block of what a prompt has, past `past` tokens.

    Only under deals that a pool opens before the base joins; in all of this process. Who has keys
    keeps one: messages are as they were.
    """
    counted = Deal.tokens

    def tokens(self, length: int, block: int, asked: int) -> int:
        found = counted(self, length, block, asked)
        opened = BASE in self.keepers and self.pattern[0] != BASE
        if opened and asked == keeper and length > past:
            return min(found, max(1, found - block))
        return found

    Deal.tokens = tokens
    try:
        yield
    finally:
        Deal.tokens = counted


def run(
    rank: int,
    port: int,
    name: str,
    spec: str,
    folder: str,
    delay: dict | None = None,
    fault: dict | None = None,
) -> tuple[str, list] | None:
    """`rank.run`, with all that it publishes; the newest of rank 0 also under `progress`.

    `delay`: what every span of a `phase` on a `rank` takes longer, by `seconds`. `fault`: a `rank`
    that is `overlooking` what its `keeper` has `past` so many tokens.
    """
    spec, samples = parse(spec), []
    if rank >= spec.plan.world:
        return None
    if delay and delay["rank"] == rank:
        with delayed(Phase(delay["phase"]), delay["seconds"]):
            return run(rank, port, name, spec.to_json(), folder)
    if fault and fault.pop("rank") == rank:
        with overlooking(**fault):
            return run(rank, port, name, spec.to_json(), folder)
    store = dist.TCPStore(HOST, port, is_master=False)

    def publish(sample) -> None:
        samples.append(sample.model_dump())
        if rank == 0:
            store.set(f"progress/{folder}", f"{sample.stage} {sample.step}")

    ending = rank_side.run(
        spec, rank=rank, store=(HOST, port), folder=Path(folder), publish=publish
    )
    return ending, samples


def talk(rank: int, port: int, name: str) -> dict[str, Any]:
    """Messages and collectives among all ranks of the crew, seen from this one."""
    from fapool.runtime.exchange.collective import Collective
    from fapool.runtime.exchange.process_group import ProcessGroupTransport

    spans: list[dict] = []

    def span(phase: Phase, **labels: Any):
        spans.append({"phase": phase, **labels})
        return torch.no_grad()

    store = dist.PrefixStore(name, dist.TCPStore(HOST, port, is_master=False))
    dist.init_process_group("gloo", store=store, rank=rank, world_size=4)
    try:
        group = dist.group.WORLD
        told = _messages(ProcessGroupTransport(group, rank, span), rank)
        told["collectives"] = _collectives(Collective(group, (0, 1, 2, 3), span), rank)
    finally:
        dist.destroy_process_group()
    return told | {"spans": spans}


def _messages(transport, rank: int) -> dict[str, Any]:
    """Everybody sends three messages to the next rank before anybody waits."""
    following, before = (rank + 1) % 4, (rank - 1) % 4
    like = torch.empty(0, dtype=torch.bfloat16)
    for number in range(3):
        message = torch.full((number + 1, 2), 10.0 * rank + number, dtype=torch.bfloat16)
        transport.send(message, following, Phase.SEND_QUERY, layer=number)
    coming = [
        transport.receive((number + 1, 2), like, before, Phase.WAIT_QUERY, layer=number)
        for number in range(3)
    ]
    arrived = [ticket.wait() for ticket in coming]
    peak = transport.peak_bytes
    transport.drain()
    transport.drain()  # nothing left: no harm
    try:
        coming[0].wait()
        twice = None
    except ExchangeError as error:
        twice = str(error)
    return {"arrived": arrived, "twice": twice, "peak": peak}


def _collectives(all_of_us, rank: int) -> dict[str, Any]:
    own = torch.tensor([[rank, 1.0]], dtype=torch.float64)
    gathered = all_of_us.gather(own)
    summed = all_of_us.sum(own)
    pieces = 10 * rank + torch.arange(4, dtype=torch.bfloat16)[:, None]
    exchanged = all_of_us.all_to_all(pieces, layer=1)
    posted = all_of_us.post_all_to_all(-pieces, layer=2).wait()
    return {
        "gathered": gathered,
        "summed": summed,
        "in_place": summed is own,
        "exchanged": [exchanged, posted],
    }


def planted(
    rank: int, port: int, name: str, spec: str, folder: str, plant: str, delay_ns: int
) -> planting.Notes:
    """`run` with a known delay in it; what was planted on this rank."""
    plan = parse(spec).plan
    found = planting.plants(getattr(plan, "threshold", 1)).get(plant)
    with planting.planted(found, rank, delay_ns=delay_ns, device="cpu") as notes:
        run(rank, port, name, spec, folder)
    return notes


def lanes(rank: int, port: int, name: str, spec: str, requests: list) -> list[tuple[int, int]]:
    """`play`; of each lane of messages the most that it counted, and that there was, in bytes."""
    with watched() as found:
        play(rank, port, name, spec, requests)
    return [(lane.peak_bytes, alive.peak_bytes) for lane, alive in found.items()]


JOBS = {job.__name__: job for job in (play, run, talk, planted, lanes)}


def main(rank: int, port: int) -> None:
    torch.set_num_threads(1)
    store = dist.TCPStore(HOST, port, is_master=False, timeout=rank_side.PATIENCE)
    number = 0
    while True:
        number += 1
        job, arguments = orjson.loads(store.get(f"job/{number}"))
        if job == "leave":
            return
        try:
            result = JOBS[job](rank, port, f"crew/{number}", **arguments)
        except Exception:
            result = f"rank {rank}, {job}: {traceback.format_exc()}"
        data = io.BytesIO()
        torch.save(result, data)
        store.set(f"done/{number}/{rank}", data.getvalue())


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
