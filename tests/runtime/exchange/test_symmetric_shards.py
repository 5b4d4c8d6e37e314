"""Partials by one-sided stores: where they go and in what order, and against fp64 on GPUs.

parent: starts a rank of this module on each GPU        child: plays every case
"""

from __future__ import annotations

import math
import random
import sys
from functools import partial
from itertools import product
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

from fapool.instrument.recorder import no_span
from fapool.runtime.exchange.collective import Collective
from fapool.runtime.partial import Partial, merge
from tests.runtime.exchange.test_link import start
from tests.runtime.exchange.test_shards import ERROR, drawn

PATIENCE = 1 << 23  # polls; seconds
STEPS, ROWS, HEADS, DIM = 60, 64, 12, 128


class Sheet:
    """Stands for an arena: memory of each of the ranks of one process."""

    def __init__(self, rank: int, memories: list[torch.Tensor]) -> None:
        self.rank, self._memories = rank, memories

    def address(self, rank: int, offset: int = 0) -> int:
        return self._memories[rank].data_ptr() + offset

    def local(self, offset: int, shape, dtype) -> torch.Tensor:
        num_bytes = math.prod(shape) * dtype.itemsize
        return self._memories[self.rank][offset : offset + num_bytes].view(dtype).view(shape)


@pytest.mark.parametrize(("layers", "ranks"), [(2, 2), (3, 3), (4, 4)])
def test_stores_lead_to_the_place_that_the_receiver_reads_for_this_sender(layers, ranks):
    stores = pytest.importorskip("fapool.runtime.exchange.symmetric_shards")
    sizes: set[int] = set()
    memories = [torch.zeros(1 << 20, dtype=torch.uint8) for _ in range(ranks)]

    def arena(rank: int, num_bytes: int) -> Sheet:
        sizes.add(num_bytes)
        return Sheet(rank, [memory[:num_bytes] for memory in memories])

    made = {"rows": 5, "layers": layers, "heads": 3, "dim": 16, "dtype": torch.bfloat16}
    peers = SimpleNamespace(size=ranks)
    ends = [
        stores.SymmetricShards(peers, partial(arena, rank), device=torch.device("cpu"), **made)
        for rank in range(ranks)
    ]
    assert len(sizes) == 1 and sizes.pop() <= 1 << 20
    reached = []
    for rank, to, number in product(range(ranks), range(ranks), range(stores.sets(layers))):
        if rank == to:
            continue
        route = ends[rank]._routes[number, to - (to > rank)].tolist()
        index, there = rank - (rank > to), ends[to]
        assert route[0] == there._flags.data_ptr() + 4 * 128 * index
        assert route[1] == there._out[number, index].data_ptr()
        assert route[2] == there._lse[number, index].data_ptr()
        assert route[3] == 3 * to
        reached += route[1:3]
    assert len(set(reached)) == len(reached)


def ready(rank: int, done: list[int], flags: dict, last: int) -> bool:
    """Whether `rank` has a next third that it need not wait for."""
    number, part = divmod(done[rank], 3)
    peers = (p for p in range(len(done)) if p != rank)
    return number < last and (part != 1 or all(flags.get((p, rank), -1) >= number for p in peers))


@pytest.mark.parametrize("layers", range(2, 8))
def test_no_rank_writes_what_a_peer_still_reads_in_whatever_order_they_run(layers):
    """Ranks of a random pace: answer (m), see all flags of m, have read the set of m."""
    stores = pytest.importorskip("fapool.runtime.exchange.symmetric_shards")
    draw, ranks, last = random.Random(layers), range(3), 3 * layers
    for _ in range(30):
        pace = [0.01 + draw.random() ** 4 for _ in ranks]
        done = [0] * 3  # thirds of exchanges: answered, all there, read
        flags, held = {}, {}
        while can := [rank for rank in ranks if ready(rank, done, flags, last)]:
            (rank,) = draw.choices(can, [pace[rank] for rank in can])
            (number, part), peers = divmod(done[rank], 3), [p for p in ranks if p != rank]
            came = stores.set_of(number % layers, layers)
            if part == 0:
                held |= {(rank, p, came): number for p in peers}
                flags |= {(rank, p): number for p in peers}
            elif part == 2:
                assert all(held[p, rank, came] == number for p in peers)
            done[rank] += 1
        assert done == [3 * last] * 3


def stored(exchange, scenes, rank: int, late: bool) -> list[torch.Tensor]:
    """All layers of a step without looking at them; the rank dawdles where it is `late`."""
    exchange.begin(len(scenes[0][0].out))
    found = []
    for layer, parts in enumerate(scenes):
        if late:
            torch.cuda._sleep(100_000)
        found.append(exchange.exchange(parts[rank], layer=layer))
    return found


def check_stored(scenes, rank: int, ranks: int, found: list[torch.Tensor]) -> None:
    mine = slice(rank * HEADS // ranks, (rank + 1) * HEADS // ranks)
    for parts, got in zip(scenes, found, strict=True):
        exact = [Partial(p.out[:, mine].double(), p.lse[:, mine].double()) for p in parts]
        assert float((got.double() - merge(exact).out).abs().max()) <= ERROR[got.dtype]


def play_stores(group, ranks: int, layers: int, dtype: torch.dtype, device: torch.device) -> None:
    from fapool.runtime.exchange.arena import Arena
    from fapool.runtime.exchange.symmetric_shards import SymmetricShards

    rank = dist.get_rank(group)
    exchange = SymmetricShards(
        Collective(group, tuple(range(ranks)), no_span), lambda size: Arena(size, device, group),
        rows=ROWS, layers=layers, heads=HEADS // ranks, dim=DIM, dtype=dtype, device=device,
        patience=PATIENCE,
    )  # fmt: skip

    def scenes_of(step: int, rows: int) -> list[list[Partial]]:
        torch.manual_seed(step)
        return [
            [drawn(rows, HEADS, DIM, dtype, device) for _ in range(ranks)] for _ in range(layers)
        ]

    for step in range(STEPS):
        scenes = scenes_of(step, (1, 3, ROWS, 16, 2)[step % 5])
        late = step % (ranks + 1) == rank
        check_stored(scenes, rank, ranks, stored(exchange, scenes, rank, late))
    scenes = scenes_of(STEPS, 48)
    for late in (rank == 0, rank == 1):
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            found = stored(exchange, scenes, rank, late)
        for step in range(STEPS):
            for parts, fresh in zip(scenes, scenes_of(1000 + step, 48), strict=True):
                for part, new in zip(parts, fresh, strict=True):
                    part.out.copy_(new.out), part.lse.copy_(new.lse)
            graph.replay()
            if step % 10 == 9:  # else many in a row, no host between the steps
                check_stored(scenes, rank, ranks, found)


def main(rank: int, port: int, world: int) -> None:
    device = torch.device("cuda", rank)
    torch.cuda.set_device(device)
    store = dist.TCPStore("127.0.0.1", port, is_master=False)
    dist.init_process_group("nccl", store=store, rank=rank, world_size=world, device_id=device)
    pairs = [dist.new_group([i, i + 1]) for i in range(0, world - 1, 2)]
    for layers, dtype in product((4, 3), (torch.bfloat16, torch.float32)):
        play_stores(dist.group.WORLD, world, layers, dtype, device)
    if rank < 2 * len(pairs) and world > 2:
        play_stores(pairs[rank // 2], 2, 3, torch.bfloat16, device)
    torch.cuda.synchronize()
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.gpu(2)
def test_stores_bring_every_rank_its_heads_of_all_partials_eager_and_in_graphs():
    world = min(torch.cuda.device_count(), 4)
    start("tests.runtime.exchange.test_symmetric_shards", world, str(world))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
