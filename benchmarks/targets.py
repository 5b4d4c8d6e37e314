"""The targets of the GPU runtime, each with what was measured last: results/targets.json.

Benchmarks write it, nobody edits it. An entry says the value, the target, whether it holds, on
what machine and when.

    python benchmarks/targets.py FILE...      takes over entries that were written elsewhere
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

TARGETS = Path(__file__).parent / "results" / "targets.json"


def record(
    target_id: str,
    *,
    value: Any,
    target: Any,
    holds: bool,
    what: str,
    machine: str,
    path: Path = TARGETS,
) -> dict[str, Any]:
    """Merge one entry, such as "gpu.a", into the file at `path`; returns the entry."""
    entry = {
        "what": what,
        "value": value,
        "target": target,
        "holds": bool(holds),
        "machine": machine,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    known = json.loads(path.read_text()) if path.exists() else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(dict(sorted((known | {target_id: entry}).items())), indent=2) + "\n")
    return entry


def merge(paths: list[Path], into: Path = TARGETS) -> None:
    """Take over the entries that benchmarks wrote elsewhere; of two of one name the newer."""
    known = json.loads(into.read_text()) if into.exists() else {}
    for path in paths:
        for name, entry in json.loads(path.read_text()).items():
            if name not in known or known[name]["date"] < entry["date"]:
                known[name] = entry
    into.write_text(json.dumps(dict(sorted(known.items())), indent=2) + "\n")


if __name__ == "__main__":
    merge([Path(name) for name in sys.argv[1:]])
