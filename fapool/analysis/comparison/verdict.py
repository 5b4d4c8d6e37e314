"""What finished runs of a protocol prove: per category, the difference, and which conditions hold.

The unit is the trial: sequences of one run share steps, and so say nothing independently of each
other. Trials of two plans that drew the same lengths come in pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from fapool.analysis.load import load
from fapool.analysis.metrics import per_request
from fapool.analysis.statistics.sample import LEAST_UNITS, Floats, Interval, interval, variation
from fapool.analysis.statistics.significance import Contrast, contrast, holm, paired
from fapool.analysis.study import check_worth
from fapool.errors import StoreError
from fapool.protocol import PAPER, Protocol
from fapool.spec import Plan, RunSpec
from fapool.store import Run

FREE = ("name", "workload", "plan")
"""Fields of a spec in which the runs of one verdict may differ; the plan only between sides."""


@dataclass(frozen=True, kw_only=True)
class Side:
    """One plan in one category: TPOT in ms of every sequence, an array a trial."""

    plan: str
    trials: tuple[Floats, ...]
    seeds: tuple[int, ...]

    @property
    def means(self) -> Floats:
        """Mean TPOT of each trial, ms."""
        return np.array([trial.mean() for trial in self.trials])

    @property
    def interval(self) -> Interval:
        """95 %, of the mean over trials."""
        return interval(self.means)

    @property
    def across(self) -> float:
        """Standard deviation over mean, of the trials' means."""
        return variation(self.means)

    @property
    def within(self) -> float:
        """Standard deviation over mean of the sequences' TPOT, in the trial where it is largest."""
        return max(variation(trial) for trial in self.trials)


@dataclass(frozen=True, kw_only=True)
class Condition:
    """One thing that the protocol asks for, and whether it holds; `words` say by how much."""

    name: str
    holds: bool
    words: str


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One category, `b` against `a`. `contrast` is of mean TPOT in ms, its p by Holm over all."""

    category: str
    a: Side
    b: Side
    contrast: Contrast
    conditions: tuple[Condition, ...]

    @property
    def ratio(self) -> float:
        """Mean TPOT of `a` over that of `b`: above one, `b` is faster."""
        return float(self.a.means.mean() / self.b.means.mean())

    @property
    def holds(self) -> bool:
        """Whether every condition does."""
        return all(condition.holds for condition in self.conditions)


def verdicts(runs: Sequence[Run], protocol: Protocol = PAPER) -> list[Verdict]:
    """Every other plan against the first run's, in every category that both have.

    Raises:
        StoreError: a run did not finish, was not correct, is not the protocol's, is there twice,
            or differs from the others in more than plan and lengths; or no two plans share a
            category.
    """
    sides = _sides(runs, protocol)
    plans = list(dict.fromkeys(plan for plan, _ in sides))
    pairs = [
        (name, sides[plans[0], name], sides[plan, name])
        for plan in plans[1:]
        for name in protocol.categories
        if (plans[0], name) in sides and (plan, name) in sides
    ]
    if not pairs:
        raise StoreError(
            "no two plans share a category: give the runs of two specs that `python -m fapool "
            "protocol` wrote together"
        )
    found = [_contrast(a, b) for _, a, b in pairs]
    adjusted = holm([one.p for one in found])
    found = [replace(one, p=float(p)) for one, p in zip(found, adjusted, strict=True)]
    return [
        Verdict(category=name, a=a, b=b, contrast=one, conditions=_judge(a, b, one, protocol))
        for (name, a, b), one in zip(pairs, found, strict=True)
    ]


def _sides(runs: Sequence[Run], protocol: Protocol) -> dict[tuple[str, str], Side]:
    """(plan, category) -> side, in the order of the runs."""
    grouped: dict[tuple[Plan, str], dict[int, Floats]] = {}
    first: RunSpec | None = None
    for run in runs:
        check_worth(run)
        spec = run.spec
        first = first or spec
        category = _admit(run, spec, first, protocol)
        trials = grouped.setdefault((spec.plan, category), {})
        if spec.workload.seed in trials:
            raise StoreError(f"{run.name}: trial {spec.workload.seed + 1} of {category} is there")
        tpot = per_request(load(run))["tpot_ms"].dropna().to_numpy()
        if not len(tpot):
            raise StoreError(f"{run.name}: outputs of one token have no TPOT; ask for more")
        trials[spec.workload.seed] = tpot
    labels = _labels([plan for plan, _ in grouped])
    return {
        (labels[plan], category): Side(
            plan=labels[plan],
            seeds=tuple(sorted(trials)),
            trials=tuple(trials[seed] for seed in sorted(trials)),
        )
        for (plan, category), trials in grouped.items()
    }


def _labels(plans: Sequence[Plan]) -> dict[Plan, str]:
    """A name for each plan that no other has: where several print alike, by what differs."""
    found = {}
    for plan in plans:
        alike = [other for other in plans if str(other) == str(plan)]
        fields = [
            f"{name} {value}"
            for name, value in plan
            if any(getattr(other, name) != value for other in alike)
        ]
        found[plan] = ", ".join([str(plan), *fields])
    return found


def _admit(run: Run, spec: RunSpec, first: RunSpec, protocol: Protocol) -> str:
    """The category of a run, if it is one of the protocol's and like the first."""
    category = protocol.category_of(spec)
    if category is None:
        raise StoreError(
            f"{run.name} is no run of the protocol: its lengths are not those of a category; "
            "`python -m fapool protocol` writes specs"
        )
    fields = [name for name in RunSpec.model_fields if name not in FREE]
    work = {"batch", "output", "sample", "length_scale"}
    unlike = [name for name in fields if getattr(spec, name) != getattr(first, name)]
    unlike += [
        f"workload.{name}"
        for name in sorted(work)
        if getattr(spec.workload, name) != getattr(first.workload, name)
    ]
    if unlike:
        raise StoreError(f"{run.name} differs from the first run in {', '.join(unlike)}")
    return category


def _contrast(a: Side, b: Side) -> Contrast:
    return paired(b.means - a.means) if a.seeds == b.seeds else contrast(a.means, b.means)


def _judge(a: Side, b: Side, found: Contrast, protocol: Protocol) -> tuple[Condition, ...]:
    trials, both = min(len(a.trials), len(b.trials)), (a, b)
    sequences = min(len(trial) for side in both for trial in side.trials)
    across = max(side.across for side in both)
    within = max(side.within for side in both)
    known = trials >= LEAST_UNITS
    return (
        Condition(
            name="sequences",
            holds=sequences >= protocol.sequences,
            words=_sequences(sequences, protocol.sequences),
        ),
        Condition(
            name="trials",
            holds=trials >= protocol.trials,
            words=f"{trials} of {protocol.trials}"
            + ("" if known else f"; with fewer than {LEAST_UNITS} nothing is known of chance"),
        ),
        Condition(
            name="significance",
            holds=bool(found.p < protocol.level),
            words=f"p {found.p:.2g} ({found.test}, Holm), asked < {protocol.level}"
            if known
            else "no p: too few trials",
        ),
        Condition(
            name="across trials",
            holds=bool(across < protocol.across_limit),
            words=f"trial means vary by {across:.2%}, asked < {protocol.across_limit:.0%}"
            if trials > 1
            else "unknown from one trial",
        ),
        Condition(
            name="within",
            holds=bool(within < protocol.within_limit),
            words=f"sequences vary by {within:.2%}, asked < {protocol.within_limit:.0%}",
        ),
    )


def _sequences(number: int, asked: int) -> str:
    if number >= asked:
        return f"{number:,} in every trial"
    wider = np.sqrt(asked / number)
    return (
        f"{number:,} of {asked:,}: what varies between sequences blurs a trial's mean "
        f"{wider:.1f} times as much"
    )
