"""Ranks without processes: samples on a timer, a simulated run at the end."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

from fapool.errors import FapoolError, RankFailed
from fapool.phases import Category, Owner
from fapool.sample import Sample
from fapool.spec import FAPool, RunSpec
from fapool.store import Store
from fapool.topology import check_ranks
from fapool.workload import requests_of
from tests.synthetic import write_run

MS = 1_000_000
SHARES = {
    "base": (0.52, 0.14, 0.09, 0.04),
    "pool": (0.61, 0.08, 0.13, 0.02),
}


def sample(rank: int, step: int, *, role: str = "base", steps: int = 100, **changes) -> Sample:
    """Counters after `step` steps of 10 ms each."""
    wall = step * 10 * MS
    spent = [int(share * wall) for share in SHARES[role]]
    drift = (step % 20) * step * MS // 200
    spent[0] -= drift
    spent[2] += drift
    category = dict(zip(Category, [*spent, wall - sum(spent)], strict=True))
    held = 3_000_000 if role == "base" else 0
    fields = {
        "rank": rank,
        "role": role,
        "sequence": step + 1,
        "stage": "running",
        "step": step,
        "steps": steps,
        "elapsed_ns": wall,
        "wall_ns": wall,
        "category_ns": category,
        "tokens": step,
        "tpot_ms": 10.0 + 3 * (step > 40) + (step % 7) / 5 if step else None,
        "leases": 2 * (step > 40),
        "memory_bytes": {
            Owner.WEIGHTS: held,
            Owner.KV: 4_000_000,
            Owner.KV_USED: 4_000_000 * step // steps,
            Owner.ACTIVATIONS: 700_000,
            Owner.BUFFERS: 200_000,
            Owner.DEVICE: 300_000_000,
        },
        "capacity_bytes": 8 << 30,
        "how": "host clock",
    }
    return Sample(**(fields | changes))


class FakeExecution:
    """Makes `steps` steps, `pace_s` apart, on a thread."""

    def __init__(self, spec: RunSpec, store: Store, *, steps: int, pace_s: float, fail: bool):
        self.spec, self.store, self.steps, self.pace_s, self.fail = spec, store, steps, pace_s, fail
        self.done, self.error, self.made = False, None, None
        self._samples, self._listeners, self._stop = {}, [], threading.Event()
        self._thread = threading.Thread(target=self._go, daemon=True)
        self._thread.start()

    def samples(self):
        return dict(self._samples)

    def stop(self) -> None:
        self._stop.set()

    def add_listener(self, listener: Callable) -> None:
        self._listeners.append(listener)

    def wait(self, timeout_s=None):
        self._thread.join(timeout_s)
        if self.error:
            raise self.error
        return self.made

    def _go(self) -> None:
        plan = self.spec.plan
        base = plan.base if isinstance(plan, FAPool) else plan.world
        for step in range(self.steps + 1):
            roles = ["base" if rank < base else "pool" for rank in range(plan.world)]
            self._samples = {
                rank: sample(rank, step, role=role, steps=self.steps)
                for rank, role in enumerate(roles)
            }
            for listener in self._listeners:
                listener(self)
            if self.fail and step > self.steps // 2:
                self.error = RankFailed(1, "was killed by SIGKILL", "last words of rank 1")
                break
            if self._stop.is_set():
                break
            time.sleep(self.pace_s)
        if not self.error:
            self.made = write_run(self.store.root, self.spec)
        self.done = True
        for listener in self._listeners:
            listener(self)


class FakeRanks:
    """As many ranks as asked for; `fail` makes the next run lose one."""

    def __init__(self, n: int, *, steps: int = 20, pace_s: float = 0.01) -> None:
        self.n, self.steps, self.pace_s = n, steps, pace_s
        self.fail = self.closed = False
        self.device = "cpu"

    @classmethod
    def start(cls, n: int, *, on_progress=lambda text: None) -> "FakeRanks":
        on_progress(f"starting {n} ranks")
        return cls(n)

    def describe(self) -> list[dict]:
        return [
            {
                "host": "here",
                "pid": 1000 + rank,
                "device": self.device,
                "device_name": "simulated CPU",
                "capacity_bytes": 8 << 30,
            }
            for rank in range(self.n)
        ]

    def run(self, spec: RunSpec, store: Store) -> FakeExecution:
        if self.closed:
            raise FapoolError("these ranks are closed; start new ones")
        check_ranks(spec, self.n)
        requests_of(spec)
        Path(store.root).mkdir(parents=True, exist_ok=True)
        return FakeExecution(spec, store, steps=self.steps, pace_s=self.pace_s, fail=self.fail)

    def close(self) -> None:
        self.closed = True
