"""Each of the project's kernels, once at small sizes, under the memory checker: one GPU.

    python benchmarks/sanitize.py                        every kernel against fp64, nothing more
    python benchmarks/sanitize.py --out results          the same, then under every tool
    compute-sanitizer --tool memcheck --error-exitcode 9 python benchmarks/sanitize.py

    shapes:  B rows, T tokens, H heads, K KV heads, D head dim, N blocks, P tokens of a block

Sizes divide nothing that they need not, and nothing is allocated from a larger piece, so that what
is read or written beyond an end is seen. Expected values come from the CPU. Kernels that need a
peer find it in the same process: both ends of a link on one stream, or words of a sum that lie
there already.

The tools run at once, memcheck a second time on a planted mistake, which it must find. A verdict
of None is none: a tool that had to be stopped, or a device that it cannot watch. Writes
sanitize.json; fails unless every tool calls all clean.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from math import inf
from pathlib import Path

os.environ.setdefault("PYTORCH_NO_CUDA_MEMORY_CACHING", "1")  # read with the first allocation
import sanitized
import sanitized_links
import torch
from sanitized import PLANTED, planted

CASES = sanitized.CASES | sanitized_links.CASES
TOOLS = {
    "memcheck": ("--padding", "4096"),
    "racecheck": (),
    "synccheck": (),
}
PLACES = ("/usr/local/cuda/bin", "/opt/nvidia/compute-sanitizer", "/opt/nvidia/bin")
FOUND = 9  # exit status of a tool that found something
LIMIT_S = 60


def check(names: list[str]) -> list[dict]:
    """Run the cases; prints a line for each, its error that of the worst output."""
    found = []
    for name in names:
        begun = time.perf_counter()
        try:
            worst = (CASES | {PLANTED: planted})[name](torch.device("cuda"))
            torch.cuda.synchronize()
        except Exception:  # the others may still tell something
            traceback.print_exc()
            worst = {"error": inf, "limit": 0.0}
        seconds = time.perf_counter() - begun
        found.append({"kernel": name, **worst, "holds": worst["error"] < worst["limit"]})
        print(
            f"{name:34}{worst['error']:>10.1e}{worst['limit']:>10.0e}{seconds:>8.2f} s", flush=True
        )
    return found


def sanitizer() -> str | None:
    """The tool's path, if it is there."""
    path = os.pathsep.join((os.environ.get("PATH", ""), *PLACES))
    found = shutil.which("compute-sanitizer", path=path)
    nested = [] if found else Path("/opt/nvidia").glob("**/compute-sanitizer")
    return found or next((str(p) for p in nested if p.is_file()), None)


def verdict(program: str, tool: str, kernels: list[str], limit_s: float) -> dict:
    """This script, without tools, under one of them; `clean` is None where there is no verdict."""
    options = ("--tool", tool, "--error-exitcode", str(FOUND), *TOOLS[tool])
    command = [program, *options, "--target-processes", "application-only", sys.executable]
    begun = time.perf_counter()
    try:
        done = subprocess.run(
            [*command, __file__, "--kernels", *kernels],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=limit_s,
        )  # fmt: skip
        status, said = done.returncode, done.stdout
    except subprocess.TimeoutExpired as late:
        status, said = None, late.stdout or b""
    lines = said.decode(errors="replace").splitlines()
    told = [line.strip("= ") for line in lines if line.startswith("=========")]
    summary = next((line for line in reversed(told) if "SUMMARY" in line), "")
    nothing = status == 0 and "SUMMARY: 0 " in summary
    return {
        "tool": tool,
        "kernels": kernels,
        "status": status,
        "clean": True if nothing else False if status == FOUND else None,
        "summary": summary,
        "seconds": round(time.perf_counter() - begun, 1),
        "said": [] if nothing else (told or lines)[:60],
    }


def verdicts(program: str, tools: list[str], kernels: list[str], limit_s: float) -> list[dict]:
    """All tools at once; the last is memcheck on a planted mistake, which it has to find."""
    asked = [(tool, kernels) for tool in tools] + [("memcheck", [PLANTED])]
    with ThreadPoolExecutor(len(asked)) as threads:
        return list(threads.map(lambda pair: verdict(program, *pair, limit_s), asked))


def main() -> None:
    """Check the kernels, with --out under the tools, too."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--tools", nargs="*", choices=TOOLS, default=list(TOOLS))
    parser.add_argument("--kernels", nargs="*", choices=[*CASES, PLANTED], default=list(CASES))
    parser.add_argument("--limit", type=float, default=LIMIT_S, help="seconds that a tool may take")
    options = parser.parse_args()
    torch.manual_seed(0)
    kernels = check(options.kernels)
    wrong = [row["kernel"] for row in kernels if not row["holds"]]
    if not options.out:
        raise SystemExit(f"wrong: {', '.join(wrong)}" if wrong else 0)
    program = sanitizer()
    tools = verdicts(program, options.tools, options.kernels, options.limit) if program else []
    report(options.out, kernels, tools)
    *verdict_of, seen = tools or [{}]
    clean = bool(verdict_of) and all(tool["clean"] for tool in verdict_of)
    print(f"clean: {clean}; a planted mistake was seen: {seen.get('clean') is False}")
    raise SystemExit(0 if clean and not wrong and seen["clean"] is False else 1)


def report(folder: Path, kernels: list[dict], tools: list[dict]) -> None:
    """Write the JSON, print what the tools said."""
    result = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "kernels": [r | {"error": None if r["error"] == inf else r["error"]} for r in kernels],
        "tools": tools,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sanitize.json").write_text(json.dumps(result, indent=2) + "\n")
    for tool in tools:
        print(f"{tool['tool']:12}{tool['status']!s:>6}{tool['seconds']:>8.1f} s  {tool['summary']}")
        if tool["said"] and tool["kernels"] != [PLANTED]:
            print("\n".join(tool["said"]))


if __name__ == "__main__":
    main()
