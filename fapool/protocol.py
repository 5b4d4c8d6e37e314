"""How the paper measured (sections 4.4, 4.5, 5.7), as one preset: which runs, and what must hold.

Its figures; where it leaves something open, what is read into it here is said beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from fapool.errors import SpecError
from fapool.spec import RangeWorkload, RunSpec, TraceWorkload

LONGEST_PROMPT = 131_072
"""Tokens at which "32768 and more" ends here: the paper gives no end."""

CATEGORIES: Mapping[str, tuple[int, int]] = MappingProxyType(
    {
        "short": (512, 2048),
        "medium": (2048, 8192),
        "long": (8192, 32_768),
        "very-long": (32_768, LONGEST_PROMPT),
    }
)
"""Category -> prompt tokens [from, to): a border belongs to the longer category."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """What is run, and the conditions under which a difference counts.

    Runs: for each category and trial, `sequences` prompts spread evenly over the category's range
    (balanced sampling). A trial is a run of its own, with new processes and lengths drawn anew;
    trial t of any plan draws the same lengths, so that plans are compared on the same requests.

    Conditions: the difference in TPOT has p below `level`, with intervals of 95 %; trial means
    vary by less than `across_limit`, and sequences of a category by less than `within_limit`. The
    paper says "variance < 5 % across runs" and "standard deviation < 3 % within a category": both
    are read as standard deviation over mean, the one of trial means, the other of sequences' TPOT.
    """

    categories: Mapping[str, tuple[int, int]] = field(default_factory=lambda: CATEGORIES)
    sequences: int = 1000
    trials: int = 3
    level: float = 0.01
    across_limit: float = 0.05
    within_limit: float = 0.03

    def specs(
        self,
        spec: RunSpec,
        *,
        sequences: int | None = None,
        trials: int | None = None,
        scale: float = 1.0,
    ) -> list[RunSpec]:
        """`spec` with the protocol's workloads, category by category, trial by trial.

        `spec` gives plan, model, capture, and of its workload the batch and the output tokens.
        `sequences` and `trials` lower the numbers, `scale` shrinks lengths and the threshold for a
        device that is too small; the verdict says what that costs.

        Raises:
            SpecError: fewer than one sequence or trial, a scale outside of (0, 1], or a workload
                that has no one number of output tokens.
        """
        sequences = _count("sequences", self.sequences if sequences is None else sequences)
        trials = _count("trials", self.trials if trials is None else trials)
        if isinstance(spec.workload, TraceWorkload):
            way_out = "its outputs differ; give a spec with workload: {batch, context, output}"
            raise SpecError("workload.kind", "trace", way_out)
        return [
            spec.replace(
                name=f"protocol-{name}-{trial + 1}",
                workload=RangeWorkload(
                    shortest=start,
                    longest=end - 1,
                    sample=sequences,
                    batch=spec.workload.batch,
                    output=spec.workload.output,
                    length_scale=scale,
                    seed=trial,
                ),
            )
            for name, (start, end) in self.categories.items()
            for trial in range(trials)
        ]

    def category_of(self, spec: RunSpec) -> str | None:
        """The category that a run's prompts were drawn from; None if it is not the protocol's."""
        work = spec.workload
        if not isinstance(work, RangeWorkload):
            return None
        found = [n for n, r in self.categories.items() if r == (work.shortest, work.longest + 1)]
        return found[0] if found else None


PAPER = Protocol()
"""As published."""


def _count(field: str, number: int) -> int:
    if number < 1:
        raise SpecError(field, number, "at least one")
    return number
