"""Lanes by themselves: what lies where, and parcels on their way between the GPUs of a node.

parent: starts a rank of this module on each GPU        child: sends and answers through both kinds
"""

from __future__ import annotations

import sys
from itertools import pairwise, product

import pytest
import torch
import torch.distributed as dist

from fapool.forecast.memory import footprint
from fapool.instrument.recorder import no_span
from fapool.phases import Owner
from fapool.pieces import IN_FLIGHT, piece_rows
from fapool.runtime.exchange.copy_lane import unpacked
from fapool.runtime.exchange.lane import Stop
from fapool.runtime.exchange.lanes import open_lanes, places_of
from fapool.runtime.exchange.link import route
from fapool.runtime.exchange.mapped import ALIGNMENT
from fapool.spec import FAPool, Model, RunSpec, Workload
from tests.runtime.exchange.test_link import start

LAYERS, ROUNDS, MIB = 4, 30, 1 << 20


def make_spec(base: int, pool: int, *, heads: int = 8, kv_heads: int = 8, **plan) -> RunSpec:
    model = Model.preset("paper-4l", heads=heads, kv_heads=kv_heads, ffn=512 * base)
    plan = FAPool(base=base, pool=pool, threshold=2048, **plan)
    work = Workload(context=131072, output=1)
    return RunSpec(model=model, plan=plan, workload=work, prefill_chunk=8192)


SHAPES = [(1, 1, 8), (1, 3, 8), (2, 2, 8), (2, 1, 1), (4, 2, 2), (3, 1, 1)]


@pytest.mark.parametrize(("base", "pool", "kv_heads"), SHAPES)
@pytest.mark.parametrize("overlap", ["auto", "never"])
def test_every_parcel_has_a_place_of_its_own_and_the_largest_fits(base, pool, kv_heads, overlap):
    spec = make_spec(base, pool, heads=24 if base == 3 else 8, kv_heads=kv_heads, overlap=overlap)
    dim, rows = spec.model.head_dim, piece_rows(spec)
    for rank in range(spec.plan.world):
        at = route(spec, rank)
        places = places_of(spec, at, rows)
        taken = sorted(
            (places.of(slot, index).start, places.of(slot, index).stop)
            for slot, index in product(range(places.slots), range(places.partners))
        )
        assert all(a[1] <= b[0] for a, b in pairwise(taken))
        assert not taken or taken[-1][1] <= places.num_bytes
        assert places.slots >= -(-spec.prefill_chunk // rows)
        room = torch.zeros(places.parcel_bytes, dtype=torch.uint8)
        for end in at.ends:
            if rank < base:
                shapes = [
                    ((rows, len(at.heads), dim), torch.bfloat16),
                    ((len(at.heads), rows), torch.float32),
                ]
            else:
                heads, kv = len(end.heads), len(end.kv_heads)
                shapes = [((rows, n, dim), torch.bfloat16) for n in (heads, kv, kv)]
            found = unpacked(room, shapes)
            begins = [x.storage_offset() * x.itemsize for x in found]
            ends = [begin + x.nbytes for begin, x in zip(begins, found, strict=True)]
            assert all(end <= begin for end, begin in zip(ends, begins[1:], strict=False))
            assert all(begin % ALIGNMENT == 0 for begin in begins)


@pytest.mark.parametrize(("base", "pool"), [(1, 1), (1, 3), (2, 2)])
def test_the_memory_of_pieces_in_flight_is_within_the_forecast_of_messages(base, pool):
    """The whole chunk's queries and keys on their way once; the forecast has them twice."""
    spec = make_spec(base, pool, heads=32, kv_heads=32)
    routes = [route(spec, rank) for rank in range(spec.plan.world)]
    held = max(places_of(spec, at, piece_rows(spec)).num_bytes for at in routes)
    assert held <= min(found[Owner.BUFFERS] for found in footprint(spec)) + MIB


def play(lanes, rank: int, device: torch.device) -> None:
    """Pieces of changing sizes in all slots, ask before answer, as a prefill has them."""
    torch.manual_seed(0)
    made = torch.randn(4096, 8, 128, dtype=torch.bfloat16, device=device)
    pending: dict[int, tuple] = {}
    for number in range(ROUNDS * LAYERS):
        slot, layer = number % IN_FLIGHT, number // IN_FLIGHT % LAYERS
        stop, rows = Stop(slot, layer, number), (0, 1, 37, 2048)[number // 3 % 4]
        q, k = made[number : number + rows], made[2 * number : 2 * number + 5]
        lse = [((8, rows), torch.float32)]
        if rank == 1:
            shapes = [((len(x), 8, 128), x.dtype) for x in (q, k, k)]
            ((got, new, _),) = lanes.queries.expect(stop, [(0, shapes)]).wait()
            assert torch.equal(got, q)
            assert torch.equal(new, k)
            answer = [(got * 2).contiguous(), got.float().sum(-1).T.contiguous()]
            lanes.answers.send(stop, [(0, answer)])
            continue
        if slot in pending:
            arrival, asked = pending.pop(slot)
            ((out, total),) = arrival.wait()
            assert torch.equal(out, asked * 2)
            assert torch.equal(total, asked.float().sum(-1).T)
        lanes.queries.send(stop, [(1, [q, k, k.clone()])])
        outline = [((rows, 8, 128), q.dtype), *lse]
        pending[slot] = lanes.answers.expect(stop, [(1, outline)]), q
    for arrival, _ in pending.values():
        arrival.wait()
    lanes.drain()
    torch.cuda.synchronize(device)


def child(rank: int, port: int) -> None:
    device = torch.device("cuda", rank)
    torch.cuda.set_device(device)
    store = dist.TCPStore("127.0.0.1", port, is_master=False)
    dist.init_process_group("nccl", store=store, rank=rank, world_size=2)
    groups = dist.group.WORLD, dist.new_group()
    for by_copies in (False, True):
        lanes = open_lanes(
            make_spec(1, 1),
            rank,
            device=device,
            groups=groups,
            span=no_span,
            by_copies=by_copies,
        )
        play(lanes, rank, device)
    dist.destroy_process_group()


@pytest.mark.gpu(2)
def test_parcels_arrive_whole_by_messages_and_by_copies():
    start("tests.runtime.exchange.test_lanes", 2)


if __name__ == "__main__":
    child(int(sys.argv[1]), int(sys.argv[2]))
