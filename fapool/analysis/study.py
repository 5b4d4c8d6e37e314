"""One run read whole: its tables, breakdown and metrics, under a label short enough for an axis."""

from __future__ import annotations

from dataclasses import dataclass

from fapool.analysis import exchanges
from fapool.analysis.breakdown import Breakdown, breakdown
from fapool.analysis.exchanges import Exchanges
from fapool.analysis.load import Tables, load
from fapool.analysis.metrics import metrics
from fapool.analysis.sampled import Sampling, any_spans, sampling
from fapool.errors import StoreError
from fapool.store import Run


@dataclass(frozen=True, kw_only=True)
class Study:
    """A run and all that was computed from it."""

    run: Run
    label: str
    tables: Tables
    met: Exchanges
    parted: Breakdown
    metrics: dict[str, float | None]
    sampling: Sampling | None

    @property
    def has_spans(self) -> bool:
        """Whether its time can be parted at all."""
        return any_spans(self.tables.steps)


def study(run: Run, label: str = "") -> Study:
    """Read and analyse one run, whether or not its performance may be compared.

    Raises:
        StoreError: its tables are missing or broken.
    """
    tables = load(run)
    met = exchanges.match(tables.events)
    parted = breakdown(tables, met)
    return Study(
        run=run,
        label=label or str(run.spec.plan),
        tables=tables,
        met=met,
        parted=parted,
        metrics=metrics(tables, parted),
        sampling=sampling(tables.steps),
    )


def studies(*runs: Run) -> list[Study]:
    """Analyse runs that are to stand side by side; labels are plans, or names where plans recur.

    Raises:
        StoreError: there is no run, one comes twice, did not finish, or was not correct.
    """
    names = [run.name for run in runs]
    if not names:
        raise StoreError("nothing to compare: name at least one run")
    if twice := {name for name in names if names.count(name) > 1}:
        raise StoreError(f"{', '.join(sorted(twice))} cannot be compared with itself")
    for run in runs:
        check_worth(run)
    plans = [str(run.spec.plan) for run in runs]
    return [
        study(run, plan if plans.count(plan) == 1 else run.name)
        for run, plan in zip(runs, plans, strict=True)
    ]


def check_worth(run: Run) -> None:
    """Refuse a run that did not finish, or whose logits were not the reference's.

    Raises:
        StoreError: says which run and why.
    """
    status = run.status
    if status.state != "finished":
        why = f": {status.reason}" if status.reason else ""
        raise StoreError(f"{run.name} is {status.state}{why}; only a finished run has performance")
    check = run.correctness
    if check.get("passed") is not True:
        raise StoreError(
            f"{run.name} failed its check against the reference (error {check.get('error')}, "
            f"tolerance {check.get('tolerance')}): a run that was not correct has no performance"
        )
