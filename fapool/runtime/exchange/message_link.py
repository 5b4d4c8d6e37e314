"""The fixed-shape exchange as messages of a process group: NCCL, or gloo where GPUs are shared.

Buffers are made once and every direction is one batch of messages, so that with NCCL a step can be
captured in a CUDA graph and all partners are served by one call. Messages are flat, in the model's
dtype: [q B x H x D][k B x K x D][v B x K x D] there, [out B x H x D][lse B x H, fp32 seen as dtype]
back.

    shapes:  B rows, H heads of a base rank, Hg heads and Kg KV heads of a head group, D head dim
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from fapool.instrument.recorder import no_span
from fapool.phases import Phase, Role
from fapool.runtime.elementwise import operations
from fapool.runtime.exchange.link import Append, Route, route
from fapool.runtime.exchange.link_spans import LinkSpans
from fapool.runtime.exchange.mail import Mail, part_in, part_width
from fapool.runtime.exchange.team import Team
from fapool.runtime.partial import Partial, merge
from fapool.runtime.span import Span
from fapool.spec import RunSpec


class MessageBaseLink:
    """See `BaseLink`."""

    transport = "messages"

    def __init__(
        self, at: Route, group: dist.ProcessGroup, rows: int, like: Tensor, spans: LinkSpans
    ) -> None:
        self._at, self._limit, self._rows, self._spans = at, rows, rows, spans
        self._ranks = [end.rank for end in at.ends]
        self._answering = [end.rank for end in at.answers]
        self._width = (len(at.heads) + 2 * len(at.kv_heads)) * at.head_dim
        self._part = part_width(len(at.heads), at.head_dim, like.dtype)
        self._out = Mail(group, [rows * self._width], like, copies=len(self._ranks))
        self._in = Mail(group, [rows * self._part] * len(self._answering), like)

    def begin(self, rows: int | None = None) -> None:
        """See `BaseLink.begin`."""
        self._rows = self._limit if rows is None else rows
        assert 0 < self._rows <= self._limit

    @property
    def held_bytes(self) -> int:
        """See `BaseLink.held_bytes`."""
        return self._out.num_bytes + self._in.num_bytes

    def ask(self, layer: int, q: Tensor, k: Tensor, v: Tensor, owner: Tensor | None = None) -> None:
        """See `BaseLink.ask`."""
        if not self._ranks:
            return
        size = self._rows * self._width
        assert q.numel() + k.numel() + v.numel() == size
        sizes = [size] * len(self._ranks)
        with self._spans.within(Phase.PACK, layer):
            torch.cat([x.reshape(-1) for x in (q, k, v)], out=self._out.buffers[0][:size])
        with self._spans.sends(Phase.SEND_QUERY, layer, sizes):
            self._out.send(self._ranks, sizes)
        if self._answering:
            with self._spans.within(Phase.POST, layer):
                self._in.receive(self._answering, self._answers)

    def collect(self, layer: int, own: Partial | None) -> Tensor:
        """See `BaseLink.collect`."""
        if self._ranks:
            with self._spans.waits(Phase.WAIT_PARTIALS, layer, self._answers):
                self._out.wait()  # taken, or nobody could answer
                self._in.wait()
            self._spans.next_layer()
        shape = self._rows, len(self._at.heads), self._at.head_dim
        with self._spans.within(Phase.MERGE, layer):
            parts = [part_in(message, shape) for message in self._in.buffers]
            merged = merge(parts + ([own] if own is not None else [])).out
            # A lone part is a view of the buffer, which the next layer overwrites.
            return merged.clone() if len(parts) == 1 and own is None else merged

    @property
    def _answers(self) -> list[int]:
        """Elements of each partial that comes."""
        return [self._rows * self._part] * len(self._answering)


class MessagePoolLink:
    """See `PoolLink`."""

    transport = "messages"
    takes_items = False

    def __init__(
        self, at: Route, group: dist.ProcessGroup, rows: int, like: Tensor, spans: LinkSpans
    ) -> None:
        self._at, self._limit, self._rows, self._spans = at, rows, rows, spans
        self._ops = operations(like.device, like.dtype)
        self._ranks = [end.rank for end in at.ends]
        dim = at.head_dim
        self._widths = [(len(end.heads) + 2 * len(end.kv_heads)) * dim for end in at.ends]
        self._answering = [end.rank for end in at.answers]
        self._parts = [part_width(len(end.heads), dim, like.dtype) for end in at.answers]
        self._in = Mail(group, [rows * width for width in self._widths], like)
        self._out = Mail(group, [rows * part for part in self._parts], like)
        self._team = Team(at, group, rows, like, spans)

    def begin(self, rows: int | None = None) -> None:
        """See `BaseLink.begin`."""
        self._rows = self._limit if rows is None else rows
        assert 0 < self._rows <= self._limit

    @property
    def held_bytes(self) -> int:
        """See `BaseLink.held_bytes`."""
        return self._out.num_bytes + self._in.num_bytes + self._team.held_bytes

    def queries(self, layer: int, append: Append | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """See `PoolLink.queries`."""
        sizes = [self._rows * width for width in self._widths]
        with self._spans.waits(Phase.WAIT_QUERY, layer, sizes):
            self._in.receive(self._ranks, sizes)
            self._in.wait()
        self._team.expect(layer, self._rows)
        with self._spans.within(Phase.PACK, layer):
            q, k, v = self._unpacked()
        if append is not None:
            with self._spans.within(Phase.APPEND_KV, layer):
                self._ops.append(*append, k, v)
        return q, k, v

    def answer(self, layer: int, part: Partial) -> None:
        """See `PoolLink.answer`."""
        part = self._team.merged(layer, part)
        if part is not None:
            self._send(layer, part)
        self._spans.next_layer()

    def _send(self, layer: int, part: Partial) -> None:
        sizes = [self._rows * size for size in self._parts]
        with self._spans.within(Phase.PACK, layer):
            for end, message in zip(self._at.answers, self._out.buffers, strict=True):
                mine = slice(end.heads.start, end.heads.stop)
                place = part_in(message, (self._rows, len(end.heads), self._at.head_dim))
                place.out.copy_(part.out[:, mine])
                place.lse.copy_(part.lse[:, mine])
        with self._spans.sends(Phase.SEND_PARTIALS, layer, sizes):
            self._out.send(self._answering, sizes)
            self._out.wait()  # not long: every base posts its receives as it asks

    def _unpacked(self) -> tuple[Tensor, Tensor, Tensor]:
        rows, dim, pieces = self._rows, self._at.head_dim, []
        for end, message in zip(self._at.ends, self._in.buffers, strict=True):
            counts = [len(end.heads), len(end.kv_heads), len(end.kv_heads)]
            sizes = [rows * count * dim for count in counts]
            parts = message[: sum(sizes)].split(sizes)
            pieces.append([x.view(rows, n, dim) for x, n in zip(parts, counts, strict=True)])
        if len(pieces) == 1:
            return tuple(pieces[0])
        q, k, v = (torch.cat(parts, dim=1) for parts in zip(*pieces, strict=True))
        return q, k, v


def open_links(
    spec: RunSpec,
    rank: int,
    *,
    rows: int,
    dtype: torch.dtype,
    device: torch.device,
    group: dist.ProcessGroup,
    channels: int = 1,
    span: Span = no_span,
    name: str = ":link",
) -> tuple[MessageBaseLink | MessagePoolLink, ...]:
    """A link per half-batch in flight; every rank of the plan opens as many, for as many rows.

    `name` follows the ranks in the channels of its spans: no two links of a run share one.
    """
    at, like = route(spec, rank), torch.empty(0, dtype=dtype, device=device)
    kind = MessageBaseLink if at.role is Role.BASE else MessagePoolLink
    names = [f"{name}{number or ''}" for number in range(channels)]
    spans = [LinkSpans(span, at, name, dtype.itemsize) for name in names]
    return tuple(kind(at, group, rows, like, own) for own in spans)
