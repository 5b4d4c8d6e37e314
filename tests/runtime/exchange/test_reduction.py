"""Sums over ranks in one kernel: right, alike on every rank, in any sizes one after the other."""

from __future__ import annotations

import sys

import pytest
import torch
import torch.distributed as dist

from fapool.instrument.recorder import no_span
from fapool.runtime.exchange.collective import Collective
from tests.runtime.exchange.test_link import start

PATIENCE = 1 << 23  # polls; seconds
SHAPES = ((1, 4096), (3, 2), (16, 4096), (5, 1000), (200, 4096), (1, 4096), (7, 300_000))
DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def parts(step: int, shape, dtype, world: int, device) -> list[torch.Tensor]:
    """Every rank's vector, the same list on every rank."""
    made = torch.Generator(device=device).manual_seed(step)
    return [torch.randn(shape, generator=made, device=device).to(dtype) for _ in range(world)]


def summed(vectors: list[torch.Tensor]) -> torch.Tensor:
    total = torch.zeros_like(vectors[0], dtype=torch.float32)
    for vector in vectors:
        total += vector.float()
    return total.to(vectors[0].dtype)


def play_eager(small, rank: int, world: int, device) -> None:
    for step in range(200):
        shape, dtype = SHAPES[step % len(SHAPES)], DTYPES[step % len(DTYPES)]
        vectors = parts(step, shape, dtype, world, device)
        found = small.sum(vectors[rank])
        assert found is vectors[rank]
        expected = summed(parts(step, shape, dtype, world, device))
        if small.fits(found):
            assert torch.equal(found, expected)  # one order of sums: bit for bit
        else:
            torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-2)


def play_graph(small, shape, rank: int, world: int, device) -> None:
    dtype, number = torch.bfloat16, 7
    inputs = [torch.empty(shape, dtype=dtype, device=device) for _ in range(number)]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        found = [small.sum(x.clone()) for x in inputs]
    for step in range(100):
        given = [parts(100 * step + i, shape, dtype, world, device) for i in range(number)]
        for x, vectors in zip(inputs, given, strict=True):
            x.copy_(vectors[rank])
        graph.replay()
        if step % 10 == 9:
            for out, vectors in zip(found, given, strict=True):
                torch.testing.assert_close(
                    out, summed(vectors), rtol=0, atol=0 if world == 2 else 1e-2
                )


def play_gather(small, rank: int, world: int, device) -> None:
    """Through the same sums, eager and in a graph: pairs of a value and a token number."""
    ranks = Collective(dist.group.WORLD, tuple(range(world)), no_span, small=small)
    shape = 5, 2

    def pairs(step: int) -> list[torch.Tensor]:
        made = parts(step, shape, torch.float32, world, device)
        for number, pair in enumerate(made):
            pair[:, 1] = (1 << 24) - 1 - 3 * number
        pair[0, 0] = -torch.inf
        return made

    assert torch.equal(ranks.gather(pairs(0)[rank]), torch.stack(pairs(0)))
    given = pairs(0)[rank]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        found = ranks.gather(given)
    for step in range(20):
        given.copy_(pairs(step)[rank])
        graph.replay()
        assert torch.equal(found, torch.stack(pairs(step)))


def main(rank: int, port: int, world: int) -> None:
    from fapool.runtime.exchange.reduction import SmallSum

    device = torch.device("cuda", rank)
    torch.cuda.set_device(device)
    store = dist.TCPStore("127.0.0.1", port, is_master=False)
    dist.init_process_group("nccl", store=store, rank=rank, world_size=world, device_id=device)
    small = SmallSum(dist.group.WORLD, device, patience=PATIENCE)
    play_eager(small, rank, world, device)
    for rows in (2, 100):
        play_graph(small, (rows, 4096), rank, world, device)
    play_gather(small, rank, world, device)
    torch.cuda.synchronize()
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.gpu(2)
def test_small_sums_are_right_and_alike_on_every_rank_eager_and_in_graphs():
    world = min(torch.cuda.device_count(), 4)
    start("tests.runtime.exchange.test_reduction", world, str(world))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
