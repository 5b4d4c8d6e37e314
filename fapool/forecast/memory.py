"""Bytes that each rank of a spec will hold, before anything starts.

The same peak of KV blocks is what the runtime allocates: the forecast of KV is exact, that of
weights too. Activations are an estimate, of one chunk in one layer; buffers are a bound.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fapool import schedule
from fapool.deals import BASE, Deal
from fapool.errors import SpecError
from fapool.forecast.buffers import Handed, buffer_bytes
from fapool.leases import LeaseBook
from fapool.phases import Owner, Role
from fapool.spec import LONGEST, FAPool, Model, RunSpec
from fapool.topology import Place, home_deal, lease_width, lent_deal, place, pool_mesh
from fapool.workload import Request, requests_of


@dataclass
class _Ledger:
    """Blocks reserved now, and the most there ever were, per place of keeping."""

    now: dict[int, int]
    peak: dict[int, int]
    held: dict[int, dict[int, int]]  # request -> keeper -> blocks

    def reserve(self, request: int, blocks: dict[int, int]) -> None:
        for keeper, number in blocks.items():
            self.now[keeper] = self.now.get(keeper, 0) + number
            self.peak[keeper] = max(self.peak.get(keeper, 0), self.now[keeper])
        self.held[request] = self.held.get(request, {}) | blocks

    def free(self, request: int) -> None:
        for keeper, number in self.held.pop(request, {}).items():
            self.now[keeper] -= number


def base_blocks(spec: RunSpec, request: Request) -> int:
    """Blocks that a request takes before it is leased, if ever it is."""
    tokens = request.cached
    if lease_width(spec):
        tokens = min(tokens, spec.threshold)
    return -(-tokens // spec.block)


def reserved(deal: Deal, blocks: int) -> dict[int, int]:
    """Blocks that a request sets aside with each of its keepers, of `blocks` in all."""
    return {keeper: deal.blocks(blocks, keeper) for keeper in deal.keepers}


def peak_blocks(spec: RunSpec, requests: list[Request]) -> dict[int, int]:
    """Most KV blocks reserved at once with each keeper: the base ranks, a column, a share."""
    book, home = lease_book(spec), home_deal(spec)
    by_id = {request.id: request for request in requests}
    contexts = {request.id: request.context for request in requests}
    ledger = _Ledger({}, {}, {})
    batch, threshold = spec.workload.batch, spec.threshold or LONGEST
    for step in schedule.landmarks(requests, batch=batch, threshold=threshold):
        for segment, tokens in book.due(step, contexts):
            request = by_id[segment.request]
            lease = book.grant(request.id, tokens=tokens, promised=request.cached)
            ledger.free(request.id)
            deal = lent_deal(spec, lease.columns)
            ledger.reserve(request.id, reserved(deal, -(-request.cached // spec.block)))
        for segment in step.segments:
            if segment.request not in ledger.held:
                blocks = base_blocks(spec, by_id[segment.request])
                ledger.reserve(segment.request, reserved(home, blocks))
        book.give_back(step.finished)
        for request_id in step.finished:
            ledger.free(request_id)
    return ledger.peak


def handed_over(spec: RunSpec, requests: list[Request]) -> Handed:
    """What moves when requests outgrow the threshold while they are decoded."""
    book, batch = lease_book(spec), spec.workload.batch
    contexts = {request.id: request.context for request in requests}
    most = single = 0
    for step in schedule.landmarks(requests, batch=batch, threshold=spec.threshold or LONGEST):
        due = book.due(step, contexts)
        for segment, tokens in due:
            book.grant(segment.request, tokens=tokens, promised=tokens)
        moved = [tokens for _, tokens in due]
        most, single = max(most, sum(moved)), max(single, *moved, 0)
        book.give_back(step.finished)
    return most, single


def widest_row(spec: RunSpec, requests: Iterable[Request], keeper: int) -> int:
    """The most blocks that one request ever has with `keeper`."""
    home, width = home_deal(spec), lease_width(spec)
    lent = lent_deal(spec, range(width)) if width else home
    alike = [k for k in lent.keepers if (k == BASE) == (keeper == BASE)]
    widest = 0
    for request in requests:
        total = -(-request.cached // spec.block)
        at_home = home.blocks(base_blocks(spec, request), keeper)
        widest = max(widest, at_home, *(lent.blocks(total, k) for k in alike), 0)
    return widest


def lease_book(spec: RunSpec) -> LeaseBook:
    """A fresh book for a spec; one that never leases where there is no pool."""
    columns = pool_mesh(spec.model, spec.plan)[1] if isinstance(spec.plan, FAPool) else 0
    return LeaseBook(columns=columns, width=lease_width(spec), threshold=spec.threshold or 0)


def footprint(spec: RunSpec, requests: list[Request] | None = None) -> list[dict[Owner, int]]:
    """Bytes by owner, one mapping a rank; `requests`: the spec's, where they are at hand.

    Raises:
        TraceFileError: the workload's trace has to be read and cannot.
    """
    requests = requests_of(spec) if requests is None else requests
    peak, handed = peak_blocks(spec, requests), handed_over(spec, requests)
    return [_of_rank(spec, place(spec, rank), peak, handed) for rank in range(spec.plan.world)]


def kv_blocks(at: Place, peak: Mapping[int, int]) -> int:
    """KV blocks that the rank at `at` allocates."""
    return peak.get(at.keeper, 0)


def kv_block_bytes(spec: RunSpec, at: Place) -> int:
    """Bytes of one KV block over the rank's layers and KV heads."""
    return (
        2 * spec.block * len(at.layers) * len(at.kv_heads) * spec.model.head_dim
        * spec.model.itemsize
    )  # fmt: skip


def weight_bytes(model: Model, at: Place) -> int:
    """Bytes of the rank's slices; the embedding is whole on the first and the last stage."""
    if at.role is Role.POOL:
        return 0
    heads = len(at.heads) + len(at.out_heads) + 2 * len(at.kv_heads)
    width = heads * model.head_dim + 2 * len(at.ffn)
    layer = width * model.hidden + 2 * model.hidden
    ends = model.vocab * model.hidden if at.is_first or at.is_last else 0
    return (layer * len(at.layers) + ends + model.hidden * at.is_last) * model.itemsize


def _of_rank(spec: RunSpec, at: Place, peak: Mapping[int, int], handed: Handed) -> dict[Owner, int]:
    model, tokens = spec.model, max(spec.prefill_chunk, spec.workload.batch)
    row = tokens * model.itemsize
    heads = (len(at.heads) + 2 * len(at.kv_heads)) * model.head_dim
    wide = max(len(at.ffn), model.hidden, heads)
    return {
        Owner.WEIGHTS: weight_bytes(model, at),
        Owner.KV: kv_blocks(at, peak) * kv_block_bytes(spec, at),
        Owner.ACTIVATIONS: row * (2 * model.hidden + 3 * wide)
        + 4 * spec.workload.batch * model.vocab * at.is_last,
        Owner.BUFFERS: buffer_bytes(spec, at, handed),
    }


def check_fits(spec: RunSpec, capacity_bytes: list[int]) -> None:
    """Refuse a spec that some rank cannot hold.

    Raises:
        SpecError: names the rank, what it needs and has, and what to lower.
    """
    for rank, (need, capacity) in enumerate(zip(footprint(spec), capacity_bytes, strict=False)):
        total = sum(need.values())
        if total > capacity:
            largest = max(need, key=need.__getitem__)
            field = "model" if largest is Owner.WEIGHTS else "workload"
            raise SpecError(
                field,
                getattr(spec, field).model_dump(),
                f"rank {rank} would need {total / 2**30:.2f} GiB ({largest} alone "
                f"{need[largest] / 2**30:.2f}) and has {capacity / 2**30:.2f}; lower batch or "
                "context, or spread over more ranks",
            )
