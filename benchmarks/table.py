"""The README's table of decode steps, in Markdown, from what a benchmark wrote.

    python benchmarks/table.py decode-2gpu.json

A name without a folder is one in results/. Rows whose check failed have no time, and rows that had
spans in all of their steps are left out.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
HEADS = ("batch, context", "plan", "ms, median", "p10 - p90", "floor", "× floor")


def table(rows: list[dict[str, Any]]) -> str:
    """A line a row, in their order; the model is named where not all have the same."""
    shown = [row for row in rows if not row.get("spans")]
    models = {row.get("model") for row in shown}
    lines = [HEADS, ["---"] * len(HEADS)]
    lines += [cells(row, names_model=len(models) > 1) for row in shown]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cells(row: dict[str, Any], *, names_model: bool) -> list[str]:
    """One line of the table."""
    work = f"{row['batch']}, {row['context'] // 1024} K"
    plan = row["plan"]
    if plan.startswith("FAPool") and not row.get("leased", True):
        plan += ", below its threshold"
    named = [f"{row['model']}, {work}" if names_model else work, plan]
    if not row["check_passed"]:
        return [*named, "failed its check", "", "", ""]
    step, floor = row["step_ms"], row["floor_ms"]
    spread = f"{number(row['p10_ms'])} - {number(row['p90_ms'])}"
    return [*named, number(step), spread, number(floor), f"{step / floor:.2f}"]


def number(ms: float) -> str:
    """Milliseconds, with a third digit below one."""
    return f"{ms:.3f}" if ms < 1 else f"{ms:.2f}"


def machine(found: dict[str, Any]) -> str:
    """On what and with what, in a sentence."""
    environment, rows = found["environment"], found["rows"]
    versions = environment["versions"]
    kernels = {tuple(row["backends"].items()) for row in rows}
    ways = {row["transport"] for row in rows if row.get("transport")}
    words = [f"torch {versions['torch']}", f"NCCL {versions['nccl']}"]
    words += [f"{phase}: {name}" for pairs in sorted(kernels) for phase, name in pairs]
    words += [f"exchange: {', '.join(sorted(ways))}"] * bool(ways)
    words += ["CUDA graphs" if environment.get("graphs") else "eager"]
    gpu = environment["gpus"][0]["name"]
    return f"{found['gpus']} x {gpu}, {found['date'][:10]} ({'; '.join(words)})."


def main() -> None:
    """Print the sentence and the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("results", type=Path)
    path = parser.parse_args().results
    found = json.loads((path if path.exists() else RESULTS / path).read_text())
    print(f"{machine(found)}\n\n{table(found['rows'])}")


if __name__ == "__main__":
    main()
