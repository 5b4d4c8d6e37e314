"""What a run took, as samples: TPOT and TTFT of its requests, and its decode steps, in ms."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from fapool.analysis.metrics import per_request
from fapool.analysis.statistics.sample import LEAST_UNITS, Description, describe
from fapool.analysis.statistics.units import REPEAT, blocks_of, decode_steps, units
from fapool.analysis.study import Study


@dataclass(frozen=True, kw_only=True)
class Sample:
    """`found` of values in ms, `of` what they are; its interval is over `units`, "" for none."""

    name: str
    of: str
    found: Description
    units: str


def described(study: Study) -> list[Sample]:
    """TPOT, TTFT and the decode steps that were not sampled; those that the run has."""
    requests = per_request(study.tables).assign(wave=study.tables.requests["admitted_ns"])
    repeated = study.tables.steps["repeat"].nunique() >= LEAST_UNITS
    found = [_tpot(study, requests, repeated), _ttft(requests, repeated), _steps(study, repeated)]
    return [sample for sample in found if sample is not None]


def _tpot(study: Study, requests: pd.DataFrame, repeated: bool) -> Sample | None:
    """Requests share their steps: within a run, the interval is that of a mean over steps."""
    requests = requests.dropna(subset="tpot_ms")
    found = _sample("TPOT", "request", requests["tpot_ms"], requests["repeat"], REPEAT)
    own = units(study).get("tpot_mean")
    if repeated or found is None or own is None:
        return found
    return replace(found, found=replace(found.found, interval=own.interval), units=own.unit)


def _ttft(requests: pd.DataFrame, repeated: bool) -> Sample | None:
    requests = requests.dropna(subset="ttft_ms")
    waves = requests.groupby(["repeat", "wave"]).ngroup()
    which, unit = (requests["repeat"], REPEAT) if repeated else (waves, "wave")
    return _sample("TTFT", "request", requests["ttft_ms"], which, unit)


def _steps(study: Study, repeated: bool) -> Sample | None:
    steps = decode_steps(study.tables)
    name = "decode step" + (", not sampled" if study.sampling else "")
    if repeated or steps.empty:
        return _sample(name, "step", steps["ms"], steps["repeat"], REPEAT)
    blocks = blocks_of(steps, steps["ms"].to_numpy())
    return _sample(name, "step", steps["ms"], pd.Series(blocks.number), blocks.words())


def _sample(name: str, of: str, ms: pd.Series, which: pd.Series, unit: str) -> Sample | None:
    if ms.empty:
        return None
    found = describe(ms, which)
    return Sample(name=name, of=of, found=found, units="" if np.isnan(found.interval.low) else unit)
