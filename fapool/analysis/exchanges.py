"""Which spans belong to one exchange, when its transfer began, and whether all its records came.

a>b     a   [ post ]
        b   [ waiting | transfer ]          arrival = the start of the sender's post
a+b     a   [     waiting    | transfer ]
        b                    [ transfer ]   arrival = the latest start of any participant
a+b     a   [     waiting    | transfer ]
        b                [ post ] ... [ transfer ]   who posted first arrived with the post
a>c     a   [ post ]
b>c     b                [ post ]
        c   [     waiting    | transfer ]   one span for both: arrival = the latest of them
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fapool.phases import Category, Phase

Ints = NDArray[np.int64]

KEYS = ["repeat", "channel", "sequence"]
_SPAN = ["repeat", "rank", "phase", "start_ns", "end_ns"]
"""What the rows have in common that one span left, one for each exchange that it served."""

_NEVER, _LATE = np.iinfo(np.int64).min, np.iinfo(np.int64).max


@dataclass(frozen=True, kw_only=True)
class Exchanges:
    """What is known of all exchanges of a run.

    `arrival_ns` int64 [events]: when the transfer that a span waits for began; the span's own
    start where it waits for nobody that is known. `awaited` int64 [events]: the rank whose arrival
    that is, -1 where it is nobody's; of several that arrive at once, the highest. Of a span that
    waits in several exchanges at once, all rows have the last arrival that is known. `span` int64
    [events]: one number for such rows, -1 where none communicates. `exchange` int64
    [events]: its number, -1 none. `arrives` bool [events]: it is one whose rank's arrival, at
    `arrived_ns` int64 [events], the others wait for. `windows`: one row per exchange and rank
    (repeat, rank, start_ns, end_ns), from the arrival to the end of the
    wait. `unmatched` of `total` exchanges miss a participant's record, or hold one twice or a
    stranger's.
    """

    arrival_ns: Ints
    awaited: Ints
    span: Ints
    exchange: Ints
    arrives: NDArray[np.bool_]
    arrived_ns: Ints
    windows: pd.DataFrame
    total: int
    unmatched: int

    def of_rows(self, rows: Ints) -> Exchanges:
        """What is known of these events; windows and counts stay those of all."""
        names = ("arrival_ns", "awaited", "span", "exchange", "arrives", "arrived_ns")
        return replace(self, **{name: getattr(self, name)[rows] for name in names})


@dataclass(frozen=True)
class _Spans:
    """Columns of the communication spans, int64 [n]; `exchange` counts from 0 to `total`."""

    exchange: Ints
    repeat: Ints
    rank: Ints
    start_ns: Ints
    end_ns: Ints
    arrived_ns: Ints  # the start, or that of a post before it
    sender: Ints  # of the channel; -1 for a collective's
    size: Ints  # participants of the channel
    member: NDArray[np.bool_]  # the rank is one of them
    first: NDArray[np.bool_]  # the earliest span of its rank in its exchange
    total: int


def match(events: pd.DataFrame) -> Exchanges:
    """Join the communication spans of each exchange across ranks; nothing is refused.

    Rows may have an `instance`, the number of their rank's span, in place of a phase: then none of
    them is a post ahead of a wait.
    """
    arrival = events["start_ns"].to_numpy(np.int64, copy=True)
    talks = (events["category"] == Category.COMMUNICATION) & (events["channel"] != "")
    posts = talks & (events["phase"] == Phase.POST) if "phase" in events else talks & False
    talks &= ~posts
    spans = _read(events[talks], events[posts])
    begin = _begin(spans)
    waits = (spans.rank != spans.sender) & (begin[spans.exchange] != _NEVER)
    rows = np.flatnonzero(talks)[waits]
    arrival[rows] = begin[spans.exchange][waits]
    awaited, exchange, span = np.full((3, len(events)), -1, np.int64)
    awaited[rows] = _last(spans, begin)[spans.exchange][waits]
    exchange[talks], span[talks] = spans.exchange, _number(events[talks])
    _until_the_last(span, arrival, awaited)
    arrives = np.zeros(len(events), bool)
    arrives[talks] = _arrives(spans)
    arrived = events["start_ns"].to_numpy(np.int64, copy=True)
    arrived[talks] = spans.arrived_ns
    return Exchanges(
        arrival_ns=arrival,
        awaited=awaited,
        span=span,
        exchange=exchange,
        arrives=arrives,
        arrived_ns=arrived,
        windows=_windows(spans, begin),
        total=spans.total,
        unmatched=_unmatched(spans),
    )


def _number(events: pd.DataFrame) -> Ints:
    """Which span each row is of, int64 [events]."""
    keys = ["repeat", "rank", "instance"] if "instance" in events else _SPAN
    return events.groupby(keys, sort=False).ngroup().to_numpy(np.int64)


def _until_the_last(span: Ints, arrival: Ints, awaited: Ints) -> None:
    """Give all rows of a span the last of their arrivals, of others first, and whose it is."""
    rows = np.flatnonzero(span >= 0)
    order = rows[np.lexsort((awaited[rows], arrival[rows], awaited[rows] >= 0, span[rows]))]
    ends = np.flatnonzero(np.r_[span[order[1:]] != span[order[:-1]], True][: len(order)])
    last = np.empty(len(ends), np.int64)
    last[span[order[ends]]] = order[ends]
    chosen = last[span[rows]]
    arrival[rows], awaited[rows] = arrival[chosen], awaited[chosen]


def _arrived(events: pd.DataFrame, posts: pd.DataFrame) -> Ints:
    """When the rank of each span came to its exchange: with its post, where it had one before."""
    both = pd.concat([events, posts])
    which = both.groupby([*KEYS, "rank"], sort=False).ngroup().to_numpy(np.int64)
    posted = np.full(which.max(initial=-1) + 1, _LATE)
    np.minimum.at(posted, which[len(events) :], posts["start_ns"].to_numpy(np.int64))
    return np.minimum(posted[which[: len(events)]], events["start_ns"].to_numpy(np.int64))


def _read(events: pd.DataFrame, posts: pd.DataFrame) -> _Spans:
    exchange = events.groupby(KEYS, sort=False).ngroup().to_numpy(np.int64)
    code, channels = pd.factorize(events["channel"])
    parsed = [_participants(channel) for channel in channels]
    rank, start_ns = (events[name].to_numpy(np.int64) for name in ("rank", "start_ns"))
    members = pd.MultiIndex.from_tuples(
        [(c, rank) for c, (_, ranks) in enumerate(parsed) for rank in ranks] or [(-1, -1)]
    )
    order = np.lexsort((start_ns, rank, exchange))
    pairs = np.column_stack([exchange, rank])[order]
    first = np.zeros(len(order), bool)
    first[order] = np.r_[True, (pairs[1:] != pairs[:-1]).any(1)][: len(order)]
    return _Spans(
        exchange=exchange,
        repeat=events["repeat"].to_numpy(np.int64),
        rank=rank,
        start_ns=start_ns,
        end_ns=events["end_ns"].to_numpy(np.int64),
        arrived_ns=_arrived(events, posts),
        sender=np.array([sender for sender, _ in parsed], np.int64)[code],
        size=np.array([len(ranks) for _, ranks in parsed], np.int64)[code],
        member=pd.MultiIndex.from_arrays([code, rank]).isin(members),
        first=first,
        total=int(exchange.max(initial=-1)) + 1,
    )


def _participants(channel: str) -> tuple[int, frozenset[int]]:
    """(sender or -1, ranks) of a channel; nobody for a name that is no channel's.

    A transport of its own has its name behind a colon: "3>0:tokens".
    """
    channel = channel.partition(":")[0]
    try:
        if ">" in channel:
            sender, receiver = map(int, channel.split(">"))
            return sender, frozenset({sender, receiver})
        return -1, frozenset(map(int, channel.split("+")))
    except ValueError:
        return -1, frozenset()


def _begin(spans: _Spans) -> Ints:
    """When each exchange's transfer began, int64 [exchanges]; `_NEVER` if no record says it."""
    posted = np.full(spans.total, _LATE)
    sends = spans.rank == spans.sender
    np.minimum.at(posted, spans.exchange[sends], spans.arrived_ns[sends])
    met = np.full(spans.total, _NEVER)
    joins = (spans.sender < 0) & spans.member & spans.first
    np.maximum.at(met, spans.exchange[joins], spans.arrived_ns[joins])
    return np.where(posted != _LATE, posted, met)


def _arrives(spans: _Spans) -> NDArray[np.bool_]:
    of_sender = (spans.rank == spans.sender) | (spans.sender < 0)
    return spans.member & spans.first & of_sender


def _last(spans: _Spans, begin: Ints) -> Ints:
    """Whose arrival began each exchange's transfer, int64 [exchanges]; -1 if nobody's."""
    who = np.full(spans.total, -1, np.int64)
    came = _arrives(spans) & (spans.arrived_ns == begin[spans.exchange])
    np.maximum.at(who, spans.exchange[came], spans.rank[came])
    return who


def _windows(spans: _Spans, begin: Ints) -> pd.DataFrame:
    """A transfer is in flight on both of its ranks until the receiver's wait ends."""
    ends = np.full(spans.total, _NEVER)
    receives = spans.member & (spans.sender >= 0) & (spans.rank != spans.sender)
    np.maximum.at(ends, spans.exchange[receives], spans.end_ns[receives])
    begins = begin[spans.exchange]
    end = np.where(spans.sender < 0, spans.end_ns, ends[spans.exchange])
    kept = spans.member & spans.first & (begins != _NEVER) & (end > begins)
    columns = {"repeat": spans.repeat, "rank": spans.rank, "start_ns": begins, "end_ns": end}
    return pd.DataFrame({name: column[kept] for name, column in columns.items()})


def _unmatched(spans: _Spans) -> int:
    sizes = np.zeros(spans.total, np.int64)
    sizes[spans.exchange] = spans.size
    good = spans.member & spans.first
    came = np.bincount(spans.exchange[good], minlength=spans.total)
    odd = np.bincount(spans.exchange[~good], minlength=spans.total)
    return int(((came != sizes) | (odd > 0)).sum())
