"""Finished runs without ranks: times from a small simulation, written through the real store.

`write_run(folder)` gives a run of FAPool(2, 2) on the tiny model: 2 repeats of 1 prefill and 3
decode steps. Any plan with pp = 1 works. The same arguments give the same nanoseconds.
"""

from collections import defaultdict
from pathlib import Path
from typing import Any

from fapool import schedule
from fapool.phases import TABLES, Owner, Phase, Role
from fapool.spec import FAPool, RunSpec, Workload
from fapool.store import Run, Store
from fapool.topology import place
from fapool.workload import requests_of

EPOCH_NS = 1_770_000_000_000_000_000  # past 2**53: a float would round it
US = 1_000
Rows = list[dict[str, Any]]

TOOK_US = {
    Phase.PROJECT: 120,
    Phase.APPEND_KV: 20,
    Phase.ATTEND: 700,
    Phase.ATTEND_PARTIAL: 380,
    Phase.MERGE: 40,
    Phase.OUTPUT: 60,
    Phase.FFN: 260,
    Phase.LOGITS: 90,
    Phase.PLAN_STEP: 25,
}


def small_spec(**changes: Any) -> RunSpec:
    """Two requests of 96 + 4 tokens, leased from 64 tokens on; two base and two pool ranks."""
    fields = {
        "name": "synthetic",
        "model": "tiny",
        "plan": FAPool(base=2, pool=2, threshold=64),
        "workload": Workload(batch=2, context=96, output=4),
        "block": 32,
        "prefill_chunk": 192,
        "repeats": 2,
    }
    return RunSpec(**(fields | changes))


class Simulation:
    """Ranks with a clock each; spans move their rank's clock, waits move it to the message."""

    def __init__(
        self, spec: RunSpec, slow: float, sample_every: int = 1, at_once: bool = False
    ) -> None:
        self.spec, self.slow, self.sample_every = spec, slow, sample_every
        self.at_once = at_once
        self.places = [place(spec, rank) for rank in range(spec.plan.world)]
        self.pools = any(at.role is Role.POOL for at in self.places)
        self.clock = [EPOCH_NS + 3 * rank * US for rank in range(spec.plan.world)]
        self.sequence: defaultdict[str, int] = defaultdict(int)
        self.rows: dict[str, Rows] = {table: [] for table in TABLES}
        self.repeat = self.step = self.decoded = 0
        self.layer = -1

    def took_ns(self, phase: Phase, rank: int) -> int:
        """Higher ranks and later steps are a little slower, so that waits are not all equal."""
        return int(TOOK_US[phase] * US * self.slow * (1 + 0.03 * rank + 0.01 * self.step))

    def span(self, rank: int, phase: Phase, end_ns: int = 0, channel: str = "") -> None:
        end_ns = end_ns or self.clock[rank] + self.took_ns(phase, rank)
        row = {"repeat": self.repeat, "rank": rank, "step": self.step, "phase": str(phase)}
        row |= {"category": str(phase.category), "layer": self.layer, "micro_batch": 0}
        row |= {"start_ns": self.clock[rank], "end_ns": end_ns, "channel": channel}
        row |= {"sequence": self.sequence[channel] if channel else -1}
        self.rows["events"].append(row | {"bytes": 4096 if channel else 0})
        self.clock[rank] = end_ns

    def send(self, a: int, b: int, phases: tuple[Phase, Phase]) -> None:
        """From rank `a` to rank `b`: 15 us to post, 50 us from post to arrival."""
        self.sequence[channel := f"{a}>{b}"] += 1
        arrives_ns = self.clock[a] + 50 * US
        self.span(a, phases[0], self.clock[a] + 15 * US, channel)
        self.span(b, phases[1], max(self.clock[b] + 2 * US, arrives_ns), channel)

    def gather(self, senders: tuple[int, ...], b: int, phases: tuple[Phase, Phase]) -> None:
        """From all `senders` to rank `b`, which waits for all in one span, kept for each."""
        channels = [f"{a}>{b}" for a in senders]
        start_ns = self.clock[b]
        end_ns = max([start_ns + 2 * US, *(self.clock[a] + 50 * US for a in senders)])
        for a, channel in zip(senders, channels, strict=True):
            self.sequence[channel] += 1
            self.span(a, phases[0], self.clock[a] + 15 * US, channel)
            self.clock[b] = start_ns
            self.span(b, phases[1], end_ns, channel)

    def collective(self, ranks: tuple[int, ...], phase: Phase) -> None:
        self.sequence[channel := "+".join(map(str, ranks))] += 1
        end_ns = max(self.clock[rank] for rank in ranks) + 30 * US
        for rank in ranks:
            self.span(rank, phase, end_ns, channel)

    def forward(self) -> None:
        base = [at for at in self.places if at.role is Role.BASE]
        for layer in range(self.spec.model.layers):
            self.layer = layer
            for at in base:
                self.span(at.rank, Phase.PROJECT)
                if not at.partners:
                    self.span(at.rank, Phase.ATTEND)
                for pool in at.partners:
                    self.send(at.rank, pool, (Phase.SEND_QUERY, Phase.WAIT_QUERY))
                self.span(at.rank, Phase.APPEND_KV)  # while the last query is on its way
            for at in base:
                for pool in at.partners:
                    self.span(pool, Phase.ATTEND_PARTIAL)
                    if not self.at_once:
                        self.send(pool, at.rank, (Phase.SEND_PARTIALS, Phase.WAIT_PARTIALS))
                if self.at_once:
                    phases = Phase.SEND_PARTIALS, Phase.WAIT_PARTIALS
                    self.gather(at.partners, at.rank, phases)
                if at.partners:
                    self.span(at.rank, Phase.MERGE)
                self.span(at.rank, Phase.OUTPUT)
                self.span(at.rank, Phase.FFN)
            if len(base) > 1:
                self.collective(tuple(at.rank for at in base), Phase.ALL_REDUCE)
        self.layer = -1
        for at in base:
            self.span(at.rank, Phase.LOGITS)

    def run_step(self, step: schedule.Step) -> None:
        self.step, starts = step.index, list(self.clock)
        sampled, seen = True, len(self.rows["events"])
        if step.kind == "decode":
            sampled = self.decoded % self.sample_every == 0
            self.decoded += 1
        leased = len(step.segments) if self.pools else 0
        for at in self.places:
            self.span(at.rank, Phase.PLAN_STEP)
        self.forward()
        for at in self.places:
            self.clock[at.rank] += 10 * US  # nothing runs
            if sampled and self.sample_every > 1:
                self.clock[at.rank] += 90 * US  # what recording takes
            row = {"repeat": self.repeat, "rank": at.rank, "step": step.index}
            row |= {"role": str(at.role), "kind": step.kind, "start_ns": starts[at.rank]}
            row |= {"end_ns": self.clock[at.rank], "requests": len(step.segments)}
            row |= {"tokens": step.tokens, "leased": leased}
            row |= {"method": "host clock" if sampled else "none"}
            kv_tokens = (
                sum(s.end for s in step.segments) if (at.role is Role.POOL) == bool(leased) else 0
            )
            self.rows["steps"].append(row | {"kv_tokens": kv_tokens})
            self.note_memory(at.rank, at.role, kv_tokens)
            if step.finished and kv_tokens:
                self.note_kv(at.rank, step)
        if not sampled:
            del self.rows["events"][seen:]

    def note_memory(self, rank: int, role: Role, kv_tokens: int) -> None:
        held = {Owner.WEIGHTS: 400_000 * (role is Role.BASE), Owner.KV: 300_000}
        held |= {Owner.KV_USED: kv_tokens * 1_000, Owner.ACTIVATIONS: 50_000}
        held |= {Owner.BUFFERS: 20_000, Owner.DEVICE: 2_000_000}
        for owner, size in held.items():
            row = {"repeat": self.repeat, "rank": rank, "step": self.step, "owner": str(owner)}
            self.rows["memory"].append(row | {"time_ns": self.clock[rank], "bytes": size})

    def note_kv(self, rank: int, step: schedule.Step) -> None:
        for segment in step.segments:
            row = {"repeat": self.repeat, "rank": rank, "step": self.step}
            row |= {"request": segment.request, "tokens": segment.end, "bytes": segment.end * 1_000}
            full, rest = divmod(segment.end, self.spec.block)
            row |= {"blocks": full + (rest > 0), "last_tokens": rest or self.spec.block}
            self.rows["kv"].append(row)

    def run(self) -> None:
        requests = requests_of(self.spec)
        work = self.spec.workload
        for repeat in range(self.spec.repeats):
            self.repeat, self.decoded = repeat, 0
            first: dict[int, int] = {}
            admitted: dict[int, int] = {}
            for step in schedule.steps(requests, batch=work.batch, chunk=self.spec.prefill_chunk):
                admitted |= {request.id: self.clock[0] for request in step.admitted}
                self.run_step(step)
                first |= {request: self.clock[0] for request in step.first_tokens}
                for request in (requests[id] for id in step.finished):
                    row = {"repeat": self.repeat, "request": request.id, "output": request.output}
                    row |= {"context": request.context, "admitted_ns": admitted[request.id]}
                    row |= {"first_token_ns": first[request.id], "last_token_ns": self.clock[0]}
                    self.rows["requests"].append(row | {"leased_at": 0 if self.pools else -1})
            self.clock = [
                max(self.clock) + 1_000 * US + 3 * rank * US for rank in range(len(self.clock))
            ]


def write_run(
    profiles: Path,
    spec: RunSpec | None = None,
    *,
    slow: float = 1.0,
    passed: bool = True,
    sample_every: int = 1,
    at_once: bool = False,
    spans: bool = True,
    memory: bool = True,
) -> Run:
    """A finished run under `profiles`; `slow` stretches computation, `passed` is its check.

    Of decode steps every `sample_every`-th has spans; each takes 90 us longer for it. `at_once`: a
    base rank waits for all of its partials in one span, not for one after the other. `spans` and
    `memory`: whether there are any.
    """
    spec = spec or small_spec()
    simulation = Simulation(spec, slow, sample_every, at_once)
    simulation.run()
    if not spans:
        simulation.rows["events"].clear()
        simulation.rows["steps"] = [row | {"method": "none"} for row in simulation.rows["steps"]]
    if not memory:
        simulation.rows["memory"].clear()
    folder = Store(profiles).create(spec)
    folder.write_json("environment.json", {"device": "simulated", "backends": ["reference"]})
    error = 1e-6 if passed else 1.0
    check = {"passed": passed, "error": error, "tolerance": 1e-4}
    folder.write_json("correctness.json", check)
    for table, rows in simulation.rows.items():
        for rank in range(spec.plan.world):
            own = [row for row in rows if row.get("rank", 0) == rank]
            columns = {name: [row[name] for row in own] for name in TABLES[table].names}
            folder.write_part(table, rank, columns)
    folder.merge_parts()
    return folder.finish()
