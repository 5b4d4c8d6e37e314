"""Communication kernels that belong together on several ranks, and when the last of them began.

A message is met by its peer's: the k-th from a to b of a step. A collective is met by those of its
group that have the same sequence number, or, where the trace has none, the same place among the
group's collectives of that name in a step. Where ranks do not have the same number of them, or one
of the group has no trace, nothing is guessed: they stay unmatched.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import pandas as pd
import pyarrow as pa

from fapool.analysis.activities.kernels import COMMUNICATION, Kernels
from fapool.analysis.activities.steps import host_steps, step_of
from fapool.analysis.intervals import Times
from fapool.traces import Trace

NO_SHIFTS: Mapping[int, int] = MappingProxyType({})
_SAID = ["group", "ranks", "collective", "peer"]  # what a kernel carries of its collective
_ALSO = ["sequence", "external"]
_KEYS = ["meeting", "step", "sequence"]


@dataclass(frozen=True, kw_only=True)
class Meetings:
    """When each kernel's last participant arrived, and how many could be told.

    `arrival_ns`: per trace [kernels], the latest start among those that met; a kernel's own start
    where it met none, or was over before the last one began. Counts are of communication kernels.
    """

    arrival_ns: list[Times]
    communication: int
    matched: int
    early: int  # matched, and over before the last of them began
    nameless: int  # do not say their group


def meet(
    traces: Sequence[Trace], kernels: Sequence[Kernels], shift_ns: Mapping[int, int] = NO_SHIFTS
) -> Meetings:
    """Match the communication kernels of all ranks.

    `shift_ns`: by rank, what to add to its times to have them on one clock; arrivals are on the
    rank's own again.
    """
    pairs = enumerate(zip(traces, kernels, strict=True))
    said = [_said(trace, own, lane) for lane, (trace, own) in pairs]
    frame = _labelled(pd.concat(said, ignore_index=True), traces)
    arrival_ns = [own.start_ns.copy() for own in kernels]
    communication = sum(int((own.use == COMMUNICATION).sum()) for own in kernels)
    shifts = np.array([shift_ns.get(trace.rank, 0) for trace in traces], np.int64)
    for name in ("start_ns", "end_ns"):
        frame[name] += shifts[frame["lane"]]
    met = _met(frame.sort_values("start_ns", kind="stable"))
    split = met["arrival_ns"] < met["end_ns"]
    for lane, rows in met[split].groupby("lane"):
        arrival_ns[lane][rows["row"]] = rows["arrival_ns"] - shifts[lane]
    return Meetings(
        arrival_ns=arrival_ns,
        communication=communication,
        matched=len(met),
        early=int((~split).sum()),
        nameless=communication - len(frame),
    )


def _said(trace: Trace, kernels: Kernels, lane: int) -> pd.DataFrame:
    """Communication kernels that say their group, with what they say; host records help out."""
    rows = np.flatnonzero(kernels.use == COMMUNICATION)
    frame = _objects(trace.kernels.select([*_SAID, *_ALSO]).take(rows))
    records = _objects(trace.collectives.rename_columns({"name": "collective"}))
    records = records[records["group"] != ""].drop_duplicates("external").set_index("external")
    lacking = (frame["group"] == "") & frame["external"].isin(records.index)
    told = records.loc[frame.loc[lacking, "external"]]
    for name in [*_SAID, "sequence"]:
        frame.loc[lacking, name] = told[name].to_numpy()
    host = host_steps(trace)
    step = step_of(host, kernels.launched_ns[rows])
    frame["step"] = np.r_[host.number, -1][step]  # -1: before the first
    frame["start_ns"], frame["end_ns"] = kernels.start_ns[rows], kernels.end_ns[rows]
    return frame.assign(lane=lane, row=rows)[frame["group"] != ""]


def _objects(table: pa.Table) -> pd.DataFrame:
    frame = table.to_pandas()
    return frame.astype({name: object for name in _SAID[:3]})


def _labelled(frame: pd.DataFrame, traces: Sequence[Trace]) -> pd.DataFrame:
    """With `meeting`: a number for (group, members, what), and `members`: how many must come."""
    labels: dict[tuple, int] = {}
    sizes: list[int] = []
    meeting = np.empty(len(frame), np.int64)
    apart = frame.groupby(["lane", *_SAID], observed=True, sort=False)
    for (lane, group, ranks, collective, peer), rows in apart.indices.items():
        members = _members(traces[lane], group, ranks)
        pair = _pair(traces[lane].rank, members, collective, peer)
        label = (group, members, pair or collective)
        if label not in labels:
            labels[label] = len(labels)
            sizes.append(2 if pair else len(members))
        meeting[rows] = labels[label]
        if pair:  # ranks count their messages apart
            frame.loc[frame.index[rows], "sequence"] = -1
    return frame.assign(meeting=meeting, size=np.array(sizes, np.int64)[meeting])


def _met(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows that met, in order of start as `frame` is, with `arrival_ns`."""
    frame = frame.assign(step=frame["step"].where(frame["sequence"] < 0, -1))
    counts = frame.groupby([*_KEYS, "lane"]).size().reset_index(name="count")
    of_key = counts.groupby(_KEYS)["count"].agg(["min", "max", "size"]).reset_index()
    frame = frame.merge(of_key.rename(columns={"size": "came"}), on=_KEYS)
    frame["turn"] = frame.groupby([*_KEYS, "lane"]).cumcount()
    whole = (frame["min"] == frame["max"]) & (frame["came"] == frame["size"]) & (frame["came"] > 1)
    frame = frame[whole]
    arrival_ns = frame.groupby([*_KEYS, "turn"])["start_ns"].transform("max")
    return frame.assign(arrival_ns=arrival_ns)


def _members(trace: Trace, group: str, ranks: str) -> tuple[int, ...]:
    """Ranks of a group, by the kernel or by the trace's list of groups; none where neither says."""
    if ranks and "..." not in ranks:
        return tuple(sorted(map(int, re.findall(r"\d+", ranks))))
    info = trace.metadata.get("distributedInfo")
    groups = info.get("pg_config") if isinstance(info, dict) else None
    for known in groups if isinstance(groups, list) else ():
        if isinstance(known, dict) and str(known.get("pg_name")) == group:
            found = known.get("ranks")
            if isinstance(found, list) and all(isinstance(rank, int) for rank in found):
                return tuple(sorted(found))
    return ()


def _pair(rank: int, members: tuple[int, ...], collective: str, peer: int) -> str | None:
    """The channel "a>b" of a message; None for a collective.

    torch names the peer by its place in the group; where that cannot be, it is a rank of the world.
    """
    if collective not in ("send", "recv") or peer < 0:
        return None
    if peer < len(members) and members[peer] != rank:
        peer = members[peer]
    return f"{rank}>{peer}" if collective == "send" else f"{peer}>{rank}"
