"""The requests of a workload, in order: fixed, drawn over a range, or sampled from a trace.

Reads Azure's LLM inference CSV (Splitwise, ISCA 2024) and Mooncake's JSONL (FAST 2025) as they
are published. Knows lengths only, not arrival times.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from fapool.errors import TraceFileError
from fapool.spec import LONGEST, RangeWorkload, RunSpec, TraceWorkload, Workload

COLUMNS = {
    ".csv": ("ContextTokens", "GeneratedTokens"),
    ".jsonl": ("input_length", "output_length"),
}


@dataclass(frozen=True, kw_only=True)
class Request:
    """One sequence: `context` prompt tokens, then `output` generated ones."""

    id: int
    context: int
    output: int

    @property
    def cached(self) -> int:
        """Tokens whose keys it holds at its end: the last token generated is never read back."""
        return self.context + self.output - 1


def requests_of(spec: RunSpec) -> list[Request]:
    """The requests of a spec's workload; the same list on every rank.

    Raises:
        TraceFileError: the trace cannot be read, or is shorter than the sample.
    """
    work = spec.workload
    if isinstance(work, Workload):
        return [Request(id=i, context=work.context, output=work.output) for i in range(work.batch)]
    if isinstance(work, RangeWorkload):
        lengths = [(context, work.output) for context in draw(work)]
    else:
        lengths = sample(read_lengths(work.path), work)
    return [Request(id=i, context=int(c), output=int(o)) for i, (c, o) in enumerate(lengths)]


def draw(work: RangeWorkload) -> np.ndarray:
    """Prompt lengths of a range's requests, one from each of its equal parts, int64 [sample]."""
    dice = np.random.default_rng(work.seed)
    places = dice.permutation(work.sample) + dice.random(work.sample)
    width = (work.longest + 1 - work.shortest) / work.sample
    lengths = np.minimum(work.shortest + np.floor(places * width), work.longest)
    return np.maximum(1, np.rint(lengths * work.length_scale)).astype(np.int64)


def read_lengths(path: Path | str) -> pd.DataFrame:
    """Columns `context` and `output`, tokens, one row a request in the file's order.

    Raises:
        TraceFileError: no such file, an unknown kind, missing columns, or lengths that are not
            whole numbers from 1 (output: from 0) to `LONGEST`; names the first bad row.
    """
    path = Path(path)
    names = COLUMNS.get(path.suffix)
    if names is None:
        raise TraceFileError("workload.path", str(path), "give a .csv (Azure) or .jsonl (Mooncake)")
    try:
        table = _read_rows(path)
    except (OSError, ValueError) as error:
        raise TraceFileError("workload.path", str(path), f"cannot be read: {error}") from None
    missing = [name for name in names if name not in table.columns]
    if missing:
        raise TraceFileError(
            "workload.path",
            str(path),
            f"lacks {', '.join(missing)}; has {', '.join(map(str, table.columns))}",
        )
    lengths = table[list(names)].set_axis(["context", "output"], axis=1)
    return pd.DataFrame(
        {
            column: _whole_numbers(path, lengths[column], least)
            for column, least in (("context", 1), ("output", 0))
        }
    )


def sample(lengths: pd.DataFrame, work: TraceWorkload) -> np.ndarray:
    """`work.sample` rows drawn without replacement, kept in order, scaled; int array [n, 2].

    Raises:
        TraceFileError: the sample is larger than the trace.
    """
    if work.sample > len(lengths):
        raise TraceFileError("workload.sample", work.sample, f"the trace has {len(lengths)} rows")
    rows = np.random.default_rng(work.seed).choice(len(lengths), work.sample, replace=False)
    picked = lengths.to_numpy()[np.sort(rows)]
    scale = np.array([work.length_scale, work.output_scale or work.length_scale])
    scaled = np.maximum(1, np.rint(picked * scale)).astype(np.int64)
    if work.max_output is not None:
        scaled[:, 1] = np.minimum(scaled[:, 1], work.max_output)
    return scaled


def _read_rows(path: Path) -> pd.DataFrame:
    if path.suffix == ".csv":
        return pd.read_csv(path)
    return pd.read_json(path, lines=True, dtype=False)  # else `true` beside numbers becomes 1


def _whole_numbers(path: Path, values: pd.Series, least: int) -> pd.Series:
    values = values.astype(object)  # plain Python values, to be judged and shown as such
    plain = values.where(values.map(_could_be_a_number))
    numbers = pd.to_numeric(plain, errors="coerce")
    good = numbers.between(least, LONGEST) & (numbers % 1 == 0)
    if not good.all():
        row = int(np.argmin(good.to_numpy()))
        raise TraceFileError(
            f"{path.name} row {row + 1} {values.name}",
            values.iloc[row],
            f"lengths are whole numbers from {least} to {LONGEST}; mend or drop the row",
        )
    return numbers.astype(np.int64)


def _could_be_a_number(value: object) -> bool:
    return isinstance(value, int | float | str) and not isinstance(value, bool)


def write_synthetic(path: Path, *, rows: int = 2000, seed: int = 0) -> Path:
    """Write lengths drawn from a log-normal law, in Azure's format; for where no trace is at hand.

    Median 1500 and 14 % past 4096 tokens, about what Azure's coding trace of 2023 has; drawn,
    not measured.
    """
    draw = np.random.default_rng(seed)
    table = pd.DataFrame(
        {
            "TIMESTAMP": pd.date_range("2023-11-16 18:17:03", periods=rows, freq="250ms"),
            "ContextTokens": np.clip(draw.lognormal(np.log(1500), 0.93, rows), 1, 32768).astype(
                int
            ),
            "GeneratedTokens": np.clip(draw.lognormal(np.log(20), 1.0, rows), 1, 2048).astype(int),
        }
    )
    table.to_csv(path, index=False)
    return path
