"""Random programs of a few ranks: run on paper, and their longest chains by trying all of them."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass
from types import SimpleNamespace

import pandas as pd
from hypothesis import strategies as st

from fapool.phases import EVENTS, Phase
from tests.synthetic import EPOCH_NS

WORLD = 3
WORK = (Phase.FFN, Phase.ATTEND, Phase.PLAN_STEP)


@dataclass(frozen=True)
class Op:
    """`ranks`: one that works; a sender and a receiver; or all, in a collective.

    In a `WAIT_PARTIALS` all but the last send, and the last waits for all of them in one span.
    """

    ranks: tuple[int, ...]
    phase: Phase
    ns: int  # the work, or the transfer


long = st.integers(1, 90)
works = st.builds(lambda r, p, ns: Op((r,), p, ns), st.integers(0, 2), st.sampled_from(WORK), long)
pairs = st.sampled_from(list(itertools.permutations(range(WORLD), 2)))
messages = st.builds(lambda pair, ns: Op(pair, Phase.WAIT_HIDDEN, ns), pairs, long)
sums = st.builds(lambda ns: Op((0, 1, 2), Phase.ALL_REDUCE, ns), long)
orders = st.sampled_from(list(itertools.permutations(range(WORLD))))
gathers = st.builds(lambda ranks, ns: Op(ranks, Phase.WAIT_PARTIALS, ns), orders, long)
programs = st.lists(works | works | messages | sums | gathers, min_size=1, max_size=6)

WAITS = Phase.WAIT_HIDDEN, Phase.WAIT_PARTIALS
POST_NS = 4  # of a message, on its sender


@dataclass(frozen=True)
class Node:
    """A span: who and what, its own time, and the spans whose end it has to wait for."""

    rank: int
    phase: Phase
    ns: int
    after: tuple[Node | None, ...]  # None: the start of the step
    channel: str = ""  # or several, by commas
    number: int = -1

    def chains(self) -> list[tuple[tuple[int, str, int], ...]]:
        """Every chain from the start to the end of this span: (rank, phase, ns), in time."""
        own = ((self.rank, self.phase.value, self.ns),)
        before = [c for node in self.after for c in (node.chains() if node else [()])]
        return [(*chain, *own) for chain in before]

    def end(self) -> int:
        """The length of the longest of them."""
        return max(sum(ns for *_, ns in chain) for chain in self.chains())


def nodes(program: list[Op], without: str | None = None) -> list[Node]:
    """All spans; those of phase `without` take no time."""
    last: list[Node | None] = [None] * WORLD
    found = []

    def add(*parts) -> Node:
        rank, phase, ns, *rest = parts
        found.append(Node(rank, phase, 0 if phase == without else ns, *rest))
        return found[-1]

    for number, op in enumerate(program):
        before = list(last)
        if len(op.ranks) == 1:
            (rank,) = op.ranks
            last[rank] = add(rank, op.phase, op.ns, (before[rank],))
        elif op.phase in WAITS:
            *senders, b = op.ranks
            for a in senders:
                last[a] = add(a, Phase.SEND_HIDDEN, POST_NS, (before[a],), f"{a}>{b}", number)
            ends = before[b], *(before[a] for a in senders)
            last[b] = add(b, op.phase, op.ns, ends, ",".join(f"{a}>{b}" for a in senders), number)
        else:
            for rank in op.ranks:
                all_ranks = tuple(before[other] for other in op.ranks)
                last[rank] = add(rank, op.phase, op.ns, all_ranks, "0+1+2", number)
    return found


def tables(program: list[Op]) -> SimpleNamespace:
    """One step of it, as the tables of a run."""
    spans, now = [], [0] * WORLD
    for node in nodes(program):
        start, now[node.rank] = now[node.rank], node.end()
        span = node.rank, node.phase, start, now[node.rank]
        spans += [(*span, channel, node.number) for channel in node.channel.split(",")]
    steps = [(rank, 0, 0, end) for rank, end in enumerate(now)]
    return _tables(spans, pd.DataFrame(steps, columns=["rank", "step", "start_ns", "end_ns"]))


def _tables(spans: list[tuple], steps: pd.DataFrame) -> SimpleNamespace:
    names = ["rank", "phase", "start_ns", "end_ns", "channel", "sequence"]
    events = pd.DataFrame(spans, columns=names)
    events["category"] = [str(Phase(phase).category) for phase in events["phase"]]
    events["phase"] = [str(phase) for phase in events["phase"]]
    for table in (events, steps):
        table[["start_ns", "end_ns"]] = table[["start_ns", "end_ns"]].astype("int64") + EPOCH_NS
    events = events.assign(repeat=0, step=0, layer=0, micro_batch=0, bytes=0)
    steps = steps.assign(repeat=0, role="base", kind="decode", leased=0, method="host clock")
    return SimpleNamespace(events=events[EVENTS.names], steps=steps)


def soup(seed: int) -> SimpleNamespace:
    """Spans and exchanges at random times, that overlap, come twice or lack a participant."""
    dice, rows = random.Random(seed), []

    def span(rank: int, phase: Phase, channel: str = "") -> None:
        start, sequence = dice.randint(0, 40), dice.randint(0, 2) if channel else -1
        if dice.random() < 0.95:
            rows.append((rank, phase, start, start + dice.randint(0, 12), channel, sequence))

    for _ in range(dice.randint(0, 14)):
        span(dice.randrange(WORLD), dice.choice((*WORK, Phase.STEP_BARRIER, Phase.POST)))
    for _ in range(dice.randint(0, 8)):
        a, b = dice.sample(range(WORLD), 2)
        span(a, Phase.SEND_QUERY, f"{a}>{b}")
        span(b, Phase.WAIT_QUERY, f"{a}>{b}")
        if rows and dice.random() < 0.4:  # it serves another as well, whose sender may be missing
            other = f"{dice.choice([c for c in range(WORLD) if c != rows[-1][0]])}>{rows[-1][0]}"
            rows.append((*rows[-1][:4], other, dice.randint(0, 2)))
    for rank in list(range(WORLD)) * dice.randint(0, 3):
        span(rank, Phase.ALL_REDUCE, "0+1+2")
    borders = sorted(dice.sample(range(3, 45), 3))
    steps = [(rank, step, *borders[step : step + 2]) for rank in range(WORLD) for step in (0, 1)]
    return _tables(rows, pd.DataFrame(steps, columns=["rank", "step", "start_ns", "end_ns"]))
