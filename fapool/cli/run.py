"""`python -m fapool run`: one process of `torchrun`, or the only one."""

from __future__ import annotations

import os
from pathlib import Path

from torch import distributed as dist

from fapool import rank as rank_side
from fapool import spec as specs
from fapool.cli.closing import Closing
from fapool.errors import SpecError
from fapool.forecast.memory import check_fits
from fapool.spec import FAPool, RunSpec
from fapool.store import RunFolder, Store
from fapool.topology import check_ranks


def run_here(path: Path, store: Store) -> None:
    """Run the spec in `path` as this process's rank; rank 0 owns the folder and prints its path.

    Raises:
        SpecError: the spec is wrong, or these ranks cannot run it; nothing was started.
    """
    spec = specs.read(path)
    if "RANK" not in os.environ and spec.plan.world > 1:
        raise SpecError(
            "plan", str(spec.plan), f"takes {spec.plan.world} ranks: start them by "
            f"`torchrun --nproc-per-node {spec.plan.world} -m fapool run {path}`"
        )  # fmt: skip
    run_spec(spec, store)


def run_spec(spec: RunSpec, store: Store) -> Path | None:
    """Run `spec` on the ranks that torchrun started; the run's path on rank 0, None elsewhere.

    Ranks beyond the plan's return at once. Collective over the plan's ranks.

    Raises:
        SpecError: these ranks cannot run it; nothing was started.
    """
    spec = _on_nodes(spec)
    rank, available = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    _check_here(spec, rank, available)
    _shared[0] += 1  # on every rank, also on those that have no part in the run
    if rank >= spec.plan.world:
        return None
    address = _rendezvous(rank)
    folder = _share_folder(spec, store, rank, address)
    closing = Closing(folder, rank, spec.plan.world)
    try:
        outcome = rank_side.run(spec, rank=rank, store=address, folder=folder.path)
    except BaseException as error:
        closing.fail(f"{type(error).__name__}: {error}")
        raise
    finally:
        closing.done()
    if rank != 0:
        return None
    run = folder.finish(outcome)
    print(f"{run.status.state}: {run.path}", flush=True)
    return run.path


def _on_nodes(spec: RunSpec) -> RunSpec:
    """The spec with torchrun's ranks of a node, where that matters and it says none itself."""
    merges = isinstance(spec.plan, FAPool) and spec.plan.reduction == "hierarchical"
    local = int(os.environ.get("LOCAL_WORLD_SIZE", spec.plan.world))
    if not merges or spec.ranks_per_node or local >= spec.plan.world:
        return spec
    return spec.replace(ranks_per_node=local)


def _check_here(spec: RunSpec, rank: int, available: int) -> None:
    """Refuse what these ranks cannot run: too few, no such device or kernel, too little memory."""
    check_ranks(spec, available)
    device, world = rank_side.check_kernel(spec, rank), spec.plan.world
    here = rank_side.describe(rank, spec.device)["capacity_bytes"]
    check_fits(spec, [here // rank_side.crowd(device, world)] * world)


def _rendezvous(rank: int) -> tuple[str, int]:
    """Where the ranks meet: torchrun's own store if it keeps one, else rank 0's."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        return os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    if "MASTER_ADDR" in os.environ:
        return rank_side.join_store(
            os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), host_it=rank == 0
        )
    return rank_side.open_store()


_shared = [0]  # runs of this process so far: the key of the folder differs from run to run


def _share_folder(spec: RunSpec, store: Store, rank: int, address: tuple[str, int]) -> RunFolder:
    """Rank 0 makes the folder; the others learn its path.

    torchrun's store outlives the ranks that it restarts: each attempt has keys of its own.
    """
    meeting = dist.TCPStore(*address, is_master=False, timeout=rank_side.PATIENCE)
    key = f"fapool/folder/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}/{_shared[0]}"
    if rank == 0:
        folder = store.create(spec)
        meeting.set(key, str(folder.path))
        return folder
    return RunFolder(meeting.get(key).decode())
