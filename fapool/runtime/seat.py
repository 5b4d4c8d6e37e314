"""All that one rank holds to play its part in a plan, made once per run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from fapool.forecast.buffers import PROBE_BLOCKS, most_rows
from fapool.forecast.memory import kv_blocks, peak_blocks
from fapool.instrument.recorder import Recorder
from fapool.phases import Role
from fapool.runtime.attention import Backends, choose
from fapool.runtime.attention.base import reads_pages
from fapool.runtime.exchange.collective import Collective
from fapool.runtime.exchange.lanes import Lanes, open_lanes
from fapool.runtime.exchange.link import BaseLink, PoolLink
from fapool.runtime.exchange.opening import (
    Sharing,
    open_boxes,
    open_links,
    open_shards,
    open_sum,
)
from fapool.runtime.exchange.process_group import ProcessGroupTransport
from fapool.runtime.frames import Splitter
from fapool.runtime.kvcache import KVCache
from fapool.runtime.model import Decoder
from fapool.runtime.span import NumberedSpan, Span
from fapool.runtime.weights import Source, Weights
from fapool.spec import RunSpec
from fapool.topology import Place
from fapool.workload import Request

if TYPE_CHECKING:
    from fapool.runtime.exchange.reduction import SmallSum
    from fapool.runtime.exchange.symmetric_shards import SymmetricShards


@dataclass(frozen=True, kw_only=True)
class Groups:
    """Process groups of a run; every rank makes all of them, in the same order."""

    world: dist.ProcessGroup | None  # messages
    tokens: dist.ProcessGroup | None  # tokens back to the first stage, past the hidden states
    peers: dist.ProcessGroup | None  # this rank's tensor-parallel group
    shards: dist.ProcessGroup | None  # ranks that share the keys of its heads


@dataclass(frozen=True, kw_only=True)
class Seat:
    """A rank's parts. `weights` outlive a workload; the cache is made for one."""

    spec: RunSpec
    place: Place
    device: torch.device
    span: NumberedSpan
    recorder: Recorder
    weights: Weights
    backends: Backends
    peers: Collective
    shards: Collective  # of Helix: among those that share the keys of this rank's heads
    stores: SymmetricShards | None  # its decode steps, where these reach each other's memory
    transport: ProcessGroupTransport
    token_transport: ProcessGroupTransport
    links: tuple[BaseLink | PoolLink, ...]  # of FAPool's decode steps, one a half-batch
    lanes: Lanes | None  # of FAPool's prefill steps
    transport_reason: str | None  # why messages carry what stores into shared memory could

    @property
    def dtype(self) -> torch.dtype:
        """Of weights, keys and activations."""
        return getattr(torch, self.spec.model.dtype)

    def decoder(self) -> Decoder:
        """The model over this rank's weights."""
        return Decoder(self.weights, self.spec.model, self.span, len(self.place.heads))

    @property
    def buffer_bytes(self) -> int:
        """What the exchange holds for good, and the most that messages held since `forget_peak`."""
        held = sum(link.held_bytes for link in self.links) + self.peers.held_bytes
        held += self.stores.held_bytes if self.stores else 0
        passing = self.transport.peak_bytes + self.token_transport.peak_bytes
        return held + passing + (self.lanes.peak_bytes if self.lanes else 0)

    def forget_peak(self) -> None:
        """Measure what messages hold anew."""
        self.transport.forget_peak()
        self.token_transport.forget_peak()
        if self.lanes:
            self.lanes.forget_peak()

    @property
    def capturable(self) -> bool:
        """Whether a decode step can be captured in a CUDA graph."""
        paged = reads_pages(self.backends.decode, self.spec.block)
        alone = self.place.world == 1 or dist.get_backend() == "nccl"
        return self.device.type == "cuda" and paged and alone

    @property
    def transport_name(self) -> str | None:
        """What carries the queries and partials of decode steps; None where nothing does."""
        if self.shards.size > 1:
            return self.stores.transport if self.stores else "messages"
        return self.links[0].transport if self.links else None

    def splitter(self, rows: int) -> Splitter | None:
        """Cuts `rows` rows into work items, if the decode kernel wants any."""
        make = getattr(self.backends.decode, "splitter", None)
        if make is None:
            return None
        place = self.place
        return make(
            rows,
            num_heads=len(place.heads),
            kv_heads=len(place.kv_heads),
            dim=self.spec.model.head_dim,
            dtype=self.dtype,
            device=self.device,
        )

    def cache(self, spec: RunSpec, requests: list[Request]) -> KVCache:
        """A KV cache with room for the most that this rank will hold of `requests`."""
        return KVCache(
            layers=self.place.layers,
            blocks=kv_blocks(self.place, peak_blocks(spec, requests)),
            block_tokens=spec.block,
            kv_heads=len(self.place.kv_heads),
            head_dim=spec.model.head_dim,
            dtype=self.dtype,
            device=self.device,
        )


def take(
    spec: RunSpec, place: Place, *, device: torch.device, groups: Groups, recorder: Recorder
) -> Seat:
    """Draw the weights, choose the kernels, open the exchange; all ranks of the plan together.

    Raises:
        SpecError: the spec's backend or transport cannot run on `device`.
    """
    dtype = getattr(torch, spec.model.dtype)
    span = NumberedSpan(recorder.span)
    shards = Collective(groups.shards, place.kv_peers or (place.rank,), span, ":shards")
    # Memory shared by all comes first: see exchange/arena.py.
    sharing = Sharing(spec, device)
    by_all = bool(place.partners) and sharing.among(groups.world)
    by_stores = sharing.lends(by_all)
    links, lanes = _exchange(spec, place, device, groups, span, by_stores)
    small = _sum(spec, device, groups, sharing, by_all)
    stores = None
    if sharing.among(groups.shards):
        stores = open_shards(
            spec, device, groups.shards, shards, rows=most_rows(spec), heads=len(place.heads)
        )
    return Seat(
        spec=spec,
        place=place,
        device=device,
        span=span,
        recorder=recorder,
        backends=choose(spec.backend, device=device, dtype=dtype, head_dim=spec.model.head_dim),
        weights=_weights(Source(spec.model, spec.seed, device), place),
        peers=Collective(groups.peers, place.tp_peers or (place.rank,), span, small=small),
        shards=shards,
        stores=stores,
        transport=ProcessGroupTransport(groups.world, place.rank, span),
        token_transport=ProcessGroupTransport(groups.tokens, place.rank, span, ":tokens"),
        links=links,
        lanes=lanes,
        transport_reason=sharing.obstacle,
    )


def _sum(
    spec: RunSpec, device: torch.device, groups: Groups, sharing: Sharing, by_all: bool
) -> SmallSum | None:
    """What sums over this rank's peers without messages; `by_all`: all ranks share memory."""
    if by_all and spec.plan.base > 1:
        boxes = open_boxes(device, groups.world, spec.plan.base)
        return open_sum(device, groups.peers, boxes) if groups.peers else None
    return open_sum(device, groups.peers) if sharing.among(groups.peers) else None


def _exchange(
    spec: RunSpec, place: Place, device: torch.device, groups: Groups, span: Span, by_stores: bool
) -> tuple[tuple[BaseLink | PoolLink, ...], Lanes | None]:
    """What carries queries and partials of decode and of prefill steps, where there is a pool."""
    if not place.partners:
        return (), None
    like = {"device": device, "groups": (groups.world, groups.tokens), "span": span}
    links = open_links(spec, place.rank, rows=most_rows(spec), shared=by_stores, **like)
    rows = PROBE_BLOCKS * spec.block
    return links, open_lanes(spec, place.rank, by_copies=by_stores, least_rows=rows, **like)


def _weights(source: Source, place: Place) -> Weights:
    if place.role is Role.POOL:
        return Weights(layers={}, embedding=None, norm_final=None)
    slices = {name: getattr(place, name) for name in ("heads", "out_heads", "kv_heads", "ffn")}
    ends = place.is_first or place.is_last
    return Weights(
        layers={number: source.layer(number, **slices) for number in place.layers},
        embedding=source.embedding() if ends else None,
        norm_final=source.gain("norm_final") if place.is_last else None,
    )
