"""Reading traces and breaking them down, against HTA: time, memory, and whether both agree.

    python benchmarks/trace_reading.py                          4 ranks x 1,000,000 events
    python benchmarks/trace_reading.py --events 100000 --out /tmp/trial

Traces of ranks that train are made (`trace_making.py`). `python -m fapool analyze` reads them and
prints their breakdown; HTA loads them and gives its temporal breakdown and its overlap. Each is a
process of its own, imports included; its memory is the highest sum of the resident sets of it and
its children, read every 20 ms, pages that they share counted for each. Seconds of CPU are of all of
them, too. Then both answers are compared on these traces and on those under `--traces`, over the
kernels that HTA keeps. Prints the table last; writes `trace-reading.json`, and the targets
profiler.f (at full size only) and profiler.b. HTA is the package traceinsight.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
from targets import record
from trace_agreement import agreement, theirs
from trace_making import write

from fapool.traces import read_folder

ROOT = Path(__file__).parent.parent
SAMPLE = ROOT / "tests" / "data" / "h200-fapool-1-1" / "trace"
RANKS, EVENTS = 4, 1_000_000
FASTER, OF_MEMORY, APART_PERCENT = 12.0, 0.25, 0.1
POLL_S = 0.02
COMMANDS = {
    "ours": ("-m", "fapool", "analyze"),
    "hta": (str(Path(__file__)), "--hta-alone"),
}


def measured(who: str, folder: Path) -> dict[str, Any]:
    """Seconds and peak bytes of one of the two in a fresh process, and what it found.

    Raises:
        subprocess.CalledProcessError: it failed; its last lines are printed.
    """
    command = [sys.executable, *COMMANDS[who], str(folder)]
    environment = os.environ | {"HTA_DISABLE_NS_ROUNDING": "1", "PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryFile("w+") as said:
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        process = subprocess.Popen(command, env=environment, stdout=said, stderr=subprocess.STDOUT)
        peak = 0
        while process.poll() is None:
            peak = max(peak, resident_bytes(process.pid))
            time.sleep(POLL_S)
        seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        said.seek(0)
        lines = said.read().splitlines()
    if process.returncode:
        print("\n".join(lines[-20:]), file=sys.stderr)
        raise subprocess.CalledProcessError(process.returncode, command)
    times = {"seconds": round(seconds, 2), "cpu_seconds": round(cpu, 2)}
    found = json.loads(lines[-1]) if who == "hta" else lines
    return times | {"peak_bytes": peak, "found": found}


def resident_bytes(pid: int) -> int:
    """Sum of the resident sets of a process and all that it started."""
    total = 0
    try:
        root = psutil.Process(pid)
        for member in [root, *root.children(recursive=True)]:
            try:
                total += member.memory_info().rss
            except psutil.NoSuchProcess:
                continue
    except psutil.NoSuchProcess:
        return total
    return total


def kernel_names() -> list[str]:
    """Names of computing kernels, as the committed traces of H200s have them."""
    tables = [trace.kernels.to_pandas() for trace in read_folder(SAMPLE).traces]
    found = {name for table in tables for name in table.loc[table["kind"] == "kernel", "name"]}
    return sorted(name for name in found if "nccl" not in name)


def race(folder: Path) -> dict[str, Any]:
    """Both on the same files, ours first: files are then in the cache for HTA."""
    files = sorted(folder.glob("*.json.gz"))
    found = {who: measured(who, folder) for who in ("ours", "hta")}
    faster = found["hta"]["seconds"] / found["ours"]["seconds"]
    of_memory = found["ours"]["peak_bytes"] / found["hta"]["peak_bytes"]
    return found | {
        "times_faster": round(faster, 1),
        "of_its_memory": round(of_memory, 3),
        "files_bytes": sum(path.stat().st_size for path in files),
        "agreement": agreement(folder, found["hta"]["found"]),
    }


def main() -> None:
    """Make, race, compare, write, print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--events", type=int, default=EVENTS, help="per rank")
    parser.add_argument("--traces", type=Path, default=SAMPLE, help="of GPUs, to compare on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--hta-alone", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.hta_alone:
        print(json.dumps(theirs(options.hta_alone)))
        return
    with tempfile.TemporaryDirectory() as made:
        names = kernel_names()
        write(Path(made), ranks=RANKS, events=options.events, names=names, seed=options.seed)
        raced = race(Path(made))
    on_gpus = agreement(options.traces, measured("hta", options.traces)["found"])
    result = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "ranks": RANKS,
        "events_per_rank": options.events,
        "race": raced,
        "gpu_traces": {"folder": options.traces.name, "agreement": on_gpus},
    }
    keep(result, options.out)
    print("\n".join(lines_of(result)))


def keep(result: dict[str, Any], out: Path) -> None:
    """Write the result, and the targets that it speaks of."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "trace-reading.json").write_text(json.dumps(result, indent=2) + "\n")
    raced, same = result["race"], {"machine": result["machine"], "path": out / "targets.json"}
    if result["events_per_rank"] >= EVENTS:
        record(
            "profiler.f",
            what="4 ranks x 1 M events read and broken down, against HTA",
            value={name: raced[name] for name in ("times_faster", "of_its_memory")},
            target={"times_faster": FASTER, "of_its_memory": OF_MEMORY},
            holds=raced["times_faster"] >= FASTER and raced["of_its_memory"] <= OF_MEMORY,
            **same,
        )
    worst = result["gpu_traces"]["agreement"]["apart_percent"]
    record(
        "profiler.b",
        what="parts of GPU traces against HTA's: largest difference, % of the span",
        value=worst,
        target=f"<= {APART_PERCENT}",
        holds=worst <= APART_PERCENT,
        **same,
    )


def lines_of(result: dict[str, Any]) -> list[str]:
    """The table, and what explains differences."""
    raced, on_gpus = result["race"], result["gpu_traces"]["agreement"]
    lines = [f"{result['ranks']} ranks x {result['events_per_rank']:,} events, {result['machine']}"]
    lines.append(f"{'':10}{'s':>10}{'s of CPU':>10}{'peak MB':>12}")
    for who in ("ours", "hta"):
        times = (f"{raced[who][name]:>10.2f}" for name in ("seconds", "cpu_seconds"))
        lines.append(f"{who:10}{''.join(times)}{raced[who]['peak_bytes'] / 1e6:>12,.0f}")
    lines.append(f"{raced['times_faster']} x faster, {raced['of_its_memory']:.3f} of its memory")
    for name, found in (("made traces", raced["agreement"]), ("GPU traces", on_gpus)):
        lines.append(f"{name}: at most {found['apart_percent']:.5f} % of the span apart")
        lines += [f"  {difference}" for difference in found["differences"]]
    return lines


if __name__ == "__main__":
    main()
