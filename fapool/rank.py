"""What one rank does for one spec: the same under interactive engines and under torchrun.

    connect - load - check - warm up - measure - (trace) - write

Process groups are made for exactly the ranks of the plan and destroyed at the end: nothing is
shared between runs but processes and imports.
"""

from __future__ import annotations

import faulthandler
import gc
import logging
import os
import socket
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import torch
import torch.distributed as dist

from fapool.errors import CheckFailed, SpecError
from fapool.runtime.attention import choose
from fapool.runtime.exchange.arena import PATIENCE_S, unfit_here
from fapool.runtime.execution import Execution
from fapool.runtime.seat import Groups
from fapool.sample import Sample
from fapool.spec import RunSpec
from fapool.store import RunFolder
from fapool.topology import Place, place

LOG = logging.getLogger("fapool")
PATIENCE = timedelta(seconds=PATIENCE_S)

LOOPBACK, LOOPBACK_DEVICE = "127.0.0.1", "lo"

_open: list[dist.TCPStore] = []  # the rendezvous that this process hosts, at most one


def describe(rank: int, wanted: str = "auto") -> dict[str, Any]:
    """What this process runs on: host, pid, device, device_name, capacity_bytes (free now)."""
    device = device_of(wanted, rank)
    here = {"host": socket.gethostname(), "pid": os.getpid(), "device": str(device)}
    if device.type == "cpu":
        free, name = psutil.virtual_memory().available, "CPU"
    else:
        free, name = torch.cuda.mem_get_info(device)[0], torch.cuda.get_device_name(device)
    return here | {"device_name": name, "capacity_bytes": free}


def device_of(wanted: str, rank: int) -> torch.device:
    """The device of a rank: its own GPU of the host if there are any and they are wanted.

    Raises:
        SpecError: a GPU is wanted and there is none.
    """
    if wanted == "cuda" and not torch.cuda.is_available():
        raise SpecError("device", wanted, "torch sees no GPU here; choose cpu or auto")
    if wanted == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    local = int(os.environ.get("LOCAL_RANK", rank))
    return torch.device("cuda", local % max(1, torch.cuda.device_count()))


def check_kernel(spec: RunSpec, rank: int) -> torch.device:
    """The device of `rank`, if it is there and the spec's backend and transport run on it.

    Raises:
        SpecError: names the device, the backend or the transport, and the way out.
    """
    device, model = device_of(spec.device, rank), spec.model
    dtype = getattr(torch, model.dtype)
    choose(spec.backend, device=device, dtype=dtype, head_dim=model.head_dim)
    if spec.transport == "symmetric" and (why := unfit_here(device, dtype)):
        raise SpecError("transport", spec.transport, f"{why}; choose auto")
    return device


def crowd(device: torch.device, world: int) -> int:
    """How many of `world` ranks share a device of this host, at most."""
    local = min(int(os.environ.get("LOCAL_WORLD_SIZE", world)), world)
    return local if device.type == "cpu" else -(-local // torch.cuda.device_count())


def open_store(host: str = LOOPBACK) -> tuple[str, int]:
    """Host a fresh rendezvous on a free port; it lives until the next call. (host, port)."""
    with socket.create_server((host, 0)) as listener:  # TCPStore by itself listens everywhere
        port = listener.getsockname()[1]
        _open[:] = [
            dist.TCPStore(
                host,
                port,
                is_master=True,
                wait_for_workers=False,
                master_listen_fd=listener.detach(),
            )
        ]
    return host, port


def join_store(host: str, port: int, *, host_it: bool) -> tuple[str, int]:
    """Host the rendezvous at a given address, once, if this process is to; (host, port)."""
    if host_it and not any(held.port == port for held in _open):
        _open[:] = [dist.TCPStore(host, port, is_master=True, wait_for_workers=False)]
    return host, port


def run(
    spec: RunSpec,
    *,
    rank: int,
    store: tuple[str, int],
    folder: Path,
    publish: Callable[[Sample], None] = lambda sample: None,
) -> str:
    """Run `spec` as `rank` of `spec.plan.world`; blocks. "finished" or "stopped".

    The folder then holds everything (rank 0 has merged what all wrote); its owner closes it.

    Raises:
        CheckFailed: the plan's logits are not the reference's; nothing was measured.
        Exception: whatever went wrong, after word of it was left in the folder.
    """
    run_folder = RunFolder(folder)
    device, at = device_of(spec.device, rank), place(spec, rank)
    with (
        _logged(run_folder, rank) as leave_word,
        _freed(device),
        meet(spec, at, device, store, run_folder.path.name) as (groups, control),
    ):
        try:
            return _execute(Execution(spec, at, device, groups, control, run_folder, publish))
        except BaseException as error:
            leave_word(error)  # first: what follows may wait for a device that waits for ever
            raise


def _execute(execution: Execution) -> str:
    if not execution.check():
        raise CheckFailed("its logits are not the reference's: see correctness.json")
    outcome = execution.measure()
    execution.write()
    return outcome


@contextmanager
def _freed(device: torch.device) -> Iterator[None]:
    """Work on `device`, and hand its memory back to it at the end: the next run may share it."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        yield
    finally:
        if device.type == "cuda":
            gc.collect()
            torch.cuda.empty_cache()


@contextmanager
def _logged(folder: RunFolder, rank: int) -> Iterator[Callable[[BaseException], None]]:
    """Send this rank's log to the folder, crashes included; leave word of a failure, once.

    Gives what leaves it, for those who know of the failure before the end.
    """
    handler = logging.FileHandler(folder.log(rank))
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    LOG.addHandler(handler)
    LOG.setLevel(logging.INFO)
    faulthandler.enable(handler.stream)
    folder.write_json(f"ranks/{rank}.born.json", {"host": socket.gethostname(), "pid": os.getpid()})
    LOG.info("rank %d, pid %d, host %s", rank, os.getpid(), socket.gethostname())
    told: list[str] = []

    def leave_word(error: BaseException) -> None:
        if told:
            return
        told.append(f"{type(error).__name__}: {error}")
        with suppress(OSError):  # a full disk must not hide the error itself
            folder.note_failure(rank, told[0])
        LOG.error("failed\n%s", traceback.format_exc())

    try:
        yield leave_word
    except BaseException as error:
        leave_word(error)
        raise
    finally:
        faulthandler.disable()
        LOG.removeHandler(handler)
        handler.close()


@contextmanager
def meet(
    spec: RunSpec, at: Place, device: torch.device, store: tuple[str, int], name: str
) -> Iterator[tuple[Groups, dist.ProcessGroup]]:
    """Every process group of the run, made by all ranks in the same order, and their end."""
    backend = "nccl" if device.type == "cuda" and crowd(device, at.world) == 1 else "gloo"
    host, port = store
    if host == LOOPBACK and LOOPBACK_DEVICE in dict(socket.if_nameindex()).values():
        os.environ.setdefault("GLOO_SOCKET_IFNAME", LOOPBACK_DEVICE)  # nothing listens beyond it
    meeting = dist.TCPStore(host, port, is_master=False, timeout=PATIENCE)
    dist.init_process_group(
        backend,
        store=dist.PrefixStore(name, meeting),
        rank=at.rank,
        world_size=at.world,
        timeout=PATIENCE,
    )
    started = time.perf_counter()
    try:
        control = dist.new_group(backend="gloo")
        tokens = dist.new_group(backend=backend)
        places = [place(spec, rank) for rank in range(at.world)]
        teams = sorted({team for p in places for team in (p.tp_peers, p.kv_peers)})
        made = {
            team: dist.new_group(list(team), backend=backend) for team in teams if len(team) > 1
        }
        LOG.info("%d ranks met over %s in %.2f s", at.world, backend, time.perf_counter() - started)
        own = {"peers": made.get(at.tp_peers), "shards": made.get(at.kv_peers)}
        yield Groups(world=dist.group.WORLD, tokens=tokens, **own), control
    finally:
        dist.destroy_process_group()
