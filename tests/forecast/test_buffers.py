"""The bound of buffers against what the exchange lays out in shared memory, rank for rank."""

import pytest
import torch

from fapool.deals import BASE
from fapool.forecast.buffers import LINKS, PROBE_BLOCKS, SUM_BYTES, buffer_bytes, most_rows
from fapool.forecast.memory import handed_over
from fapool.pieces import piece_rows
from fapool.runtime.exchange.lanes import places_of
from fapool.runtime.exchange.layout import base_places, pool_places
from fapool.runtime.exchange.link import route
from fapool.spec import FAPool, Model, RunSpec, Static, Workload
from fapool.topology import lease_width, lent_deal, place
from fapool.workload import Request

MODEL = Model(
    layers=3, hidden=96, heads=24, kv_heads=12, head_dim=64, ffn=96, vocab=97, dtype="bfloat16"
)


def make_spec(plan, *, batch: int = 5, **changes) -> RunSpec:
    work = Workload(batch=batch, context=100, output=20)
    fields = {"model": MODEL, "plan": plan, "workload": work, "block": 16, "prefill_chunk": 64}
    return RunSpec(**(fields | changes))


@pytest.mark.parametrize("overlap", ["auto", "always", "never"])
@pytest.mark.parametrize(("base", "pool"), [(1, 1), (1, 3), (2, 2), (4, 2), (3, 3), (6, 4)])
def test_links_and_lanes_in_shared_memory_are_within_the_bound(base, pool, overlap):
    spec = make_spec(FAPool(base=base, pool=pool, threshold=32, overlap=overlap), graphs=False)
    routes = [route(spec, rank) for rank in range(spec.plan.world)]
    rows, piece = most_rows(spec), max(piece_rows(spec), PROBE_BLOCKS * spec.block)
    yard = max(places_of(spec, at, piece).num_bytes for at in routes)
    sums = SUM_BYTES * (base > 1)
    for at in routes:
        room = max(
            pool_places(at, rows, torch.bfloat16)[-1],
            base_places(at, rows, torch.bfloat16, at.columns)[-1],
        )
        held = LINKS * room + yard + sums
        bound = buffer_bytes(spec, place(spec, at.rank), (0, 0))
        assert held <= bound <= 4 * held + 2**16


@pytest.mark.parametrize("ranks", range(2, 9))
def test_memory_for_sums_is_within_the_bound(ranks):
    reduction = pytest.importorskip("fapool.runtime.exchange.reduction")
    assert reduction.num_bytes(ranks) + reduction.SHARED_BYTES <= SUM_BYTES


def test_nothing_is_shared_and_no_graph_kept_on_a_cpu():
    on_cpu = make_spec(Static(tp=2), device="cpu")
    assert buffer_bytes(on_cpu, place(on_cpu, 0), (0, 0)) == 0
    on_gpu = on_cpu.replace(device="cuda")
    assert buffer_bytes(on_gpu, place(on_gpu, 0), (0, 0)) > SUM_BYTES
    by_messages = on_gpu.replace(transport="messages")
    assert 0 < buffer_bytes(by_messages, place(on_gpu, 0), (0, 0)) < SUM_BYTES


def test_logits_of_every_bucket_and_twin_are_within_the_bound():
    spec = make_spec(Static(), batch=5)
    assert buffer_bytes(spec, place(spec, 0), (0, 0)) >= 2 * 5 * 97 * 4


def test_what_is_handed_over_is_what_requests_have_when_they_cross():
    plan = FAPool(pool=3, threshold=32)
    spec = make_spec(plan, batch=3)
    cases = [(40, 9), (30, 9), (30, 9), (20, 3), (10, 40)]
    requests = [Request(id=i, context=c, output=o) for i, (c, o) in enumerate(cases)]
    # The first is leased before its first chunk; the next two cross together, the last alone.
    assert handed_over(spec, requests) == (64, 32)
    deal = lent_deal(spec, range(lease_width(spec)))
    assert BASE not in deal.keepers
    places = place(spec, 0), place(spec, 1)
    base, pool = (
        buffer_bytes(spec, at, (64, 32)) - buffer_bytes(spec, at, (0, 0)) for at in places
    )
    token = 2 * 3 * 12 * 64 * 2
    assert (base, pool) == (64 * token, 16 * token)  # two blocks of 16 on three columns: one each
