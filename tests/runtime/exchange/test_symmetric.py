"""The exchange by one-sided stores: eager and from CUDA graphs, every slice, against fp64.

parent: starts a rank of this module on each GPU        child: plays every case that fits
"""

from __future__ import annotations

import math
import sys
from itertools import product

import pytest
import torch
import torch.distributed as dist

from fapool.runtime.attention.base import Unmerged
from fapool.runtime.exchange.layout import base_places, laid_out, pool_places
from fapool.runtime.exchange.link import route
from fapool.runtime.partial import Partial
from fapool.topology import pool_mesh
from tests.runtime.exchange.test_link import CASES, Scene, held, make_spec, play, start

PATIENCE = 1 << 23  # polls; seconds
STEPS, LAYERS, ROWS, PAGE = 100, 4, 256, 16
ROWS_OF_STEPS = (1, 3, 16, 1, 64, ROWS, 2)
GPU_CASES = {"one and one": (1, 1, 32, 8), "wide keys": (1, 1, 8, 8)} | {
    name: (base, pool, 4 * heads, kv_heads) for name, (base, pool, heads, kv_heads) in CASES.items()
}
SIZES = {"layers": LAYERS, "head_dim": 128, "dtype": "bfloat16"}


def pages_of(spec, device) -> torch.Tensor:
    heads = spec.model.kv_heads // pool_mesh(spec.model, spec.plan)[0]
    shape = 2, ROWS // PAGE + 1, PAGE, heads, spec.model.head_dim
    return torch.ones(shape, dtype=torch.bfloat16, device=device)


def play_eager(links, spec, rank: int, device: torch.device) -> None:
    """Steps of changing sizes, two half-batches; odd ones with stamps."""
    pages = pages_of(spec, device)
    for step, layer in product(range(STEPS), range(LAYERS)):
        for number, link in enumerate(links):
            rows = ROWS_OF_STEPS[step % len(ROWS_OF_STEPS)]
            if not layer:
                link.begin(rows)
                made = torch.zeros(LAYERS, 2, 3, dtype=torch.int64, device=device)
                link.stamps = made if step % 2 else None
            scene = Scene(spec, rows, 1000 * step + 10 * layer + number, device)
            play(link, spec, rank, layer, scene, pages)
            pages.fill_(1)
            if link.stamps is not None:
                begun, there, ended = link.stamps[layer].T.tolist()
                assert 0 < begun[0] <= ended[0] <= begun[1] <= ended[1]
                waits = 1 if rank < spec.plan.base else 0
                assert begun[waits] <= there[waits] <= ended[waits]


def step_of(link, spec, rank: int, scenes: list[Scene], pages) -> list[tuple]:
    """All layers of a step without looking at them: copies of what arrived."""
    found = []
    heads, kv = held(spec, rank)
    column = (rank - spec.plan.base) // pool_mesh(spec.model, spec.plan)[0]
    link.begin(len(scenes[0].q))
    for layer, scene in enumerate(scenes):
        if rank < spec.plan.base:
            link.ask(layer, scene.q[:, heads], scene.k[:, kv], scene.v[:, kv])
            own = Partial(scene.out[-1][:, heads], scene.lse[-1][:, heads])
            found.append((link.collect(layer, own if layer % 2 else None),))
        else:
            got = link.queries(layer, (pages[0], pages[1], scene.slots))
            found.append(tuple(x.clone() for x in got))
            part = Partial(scene.out[column][:, heads], scene.lse[column][:, heads])
            if link.takes_items and layer % 2:
                link.answer_items(layer, thrice(part))
            else:
                link.answer(layer, part)
    return found


def thrice(part: Partial) -> Unmerged:
    """Three items of every row that merge to a partial, by operations that a graph can hold."""
    out = part.out.float().repeat_interleave(3, dim=0)
    lse = (part.lse - math.log(3)).repeat_interleave(3, dim=0)
    first = torch.arange(0, len(out) + 1, 3, dtype=torch.int32, device=out.device)
    return Unmerged(out, lse, first)


def check_step(spec, rank: int, scenes: list[Scene], found: list[tuple]) -> None:
    heads, kv = held(spec, rank)
    for layer, (scene, got) in enumerate(zip(scenes, found, strict=True)):
        if rank < spec.plan.base:
            expected = scene.merged(len(scene.out) - (layer % 2 == 0), heads)
            torch.testing.assert_close(got[0].double(), expected, rtol=1e-2, atol=1e-2)
        else:
            sent = scene.q[:, heads], scene.k[:, kv], scene.v[:, kv]
            assert all(torch.equal(a, b) for a, b in zip(got, sent, strict=True))


def play_graph(link, spec, rank: int, rows: int, device: torch.device) -> None:
    """The same graph again and again over other data."""
    pages = pages_of(spec, device)
    scenes = [Scene(spec, rows, layer, device) for layer in range(LAYERS)]
    check_step(spec, rank, scenes, step_of(link, spec, rank, scenes, pages))  # compiles
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        found = step_of(link, spec, rank, scenes, pages)
    for step in range(STEPS):
        for layer, scene in enumerate(scenes):
            fresh = Scene(spec, rows, 7000 + 10 * step + layer, device)
            for name in ("q", "k", "v", "out", "lse", "slots"):
                getattr(scene, name).copy_(getattr(fresh, name))
        graph.replay()
        if step % 10 == 9:  # else many in a row, no host between the steps
            check_step(spec, rank, scenes, found)


def play_case(rank: int, case: str, device: torch.device) -> None:
    from fapool.runtime.exchange import symmetric

    spec = make_spec(*GPU_CASES[case], **SIZES)
    group = dist.new_group(range(spec.plan.world))
    if rank >= spec.plan.world:
        return
    made = {"rows": ROWS, "dtype": torch.bfloat16, "device": device, "group": group}
    links = symmetric.open_links(spec, rank, channels=2, patience=PATIENCE, **made)
    play_eager(links, spec, rank, device)
    for link in links:
        link.stamps = None
    for rows in (1, 48):
        play_graph(links[1], spec, rank, rows, device)
    print(f"rank {rank}: {case}", flush=True)


def main(rank: int, port: int, world: int) -> None:
    device = torch.device("cuda", rank)
    torch.cuda.set_device(device)
    store = dist.TCPStore("127.0.0.1", port, is_master=False)
    dist.init_process_group("nccl", store=store, rank=rank, world_size=world, device_id=device)
    for case, (base, pool, *_) in GPU_CASES.items():
        if base + pool <= world:
            play_case(rank, case, device)
    torch.cuda.synchronize()
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.gpu(2)
def test_stores_bring_every_slice_to_its_place_step_after_step_eager_and_in_graphs():
    world = min(torch.cuda.device_count(), 4)
    start("tests.runtime.exchange.test_symmetric", world, str(world))


@pytest.mark.parametrize("case", GPU_CASES)
def test_what_lies_in_shared_memory_does_not_overlap_and_fits_its_tensors(case):
    spec, rows, dtype = make_spec(*GPU_CASES[case], **SIZES), 5, torch.bfloat16
    for rank in range(spec.plan.world):
        at = route(spec, rank)
        q, k, v, end = pool_places(at, rows, dtype)
        row = rows * spec.model.head_dim * 2
        assert at.world * 128 * 4 <= q
        assert q + row * at.group_heads <= k
        assert k + row * at.group_kv_heads <= v
        assert v + row * at.group_kv_heads <= end
        out, lse, end = base_places(at, rows, dtype, at.columns)
        assert at.world * 128 * 4 <= out
        assert out + row * at.columns * at.base_heads <= lse
        assert lse + 4 * at.columns * rows * at.base_heads <= end


def test_every_rank_lays_its_memory_out_alike():
    for case in GPU_CASES:
        spec = make_spec(*GPU_CASES[case], **SIZES)
        routes = [route(spec, rank) for rank in range(spec.plan.world)]
        assert len({tuple(pool_places(at, 3, torch.float16)) for at in routes}) == 1
        assert len({tuple(base_places(at, 3, torch.float16, at.columns)) for at in routes}) == 1


def test_pieces_begin_on_cache_lines_of_their_own():
    assert laid_out(1, 256, 257) == [0, 256, 512, 1024]


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
