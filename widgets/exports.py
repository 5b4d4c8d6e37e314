"""Files of a run that other tools open, and how to open each."""

from __future__ import annotations

import html
import shlex
from pathlib import Path

from fapool.store import Run

_ROW = (
    '<tr style="vertical-align:top"><td style="padding:2px 14px 2px 0;white-space:nowrap">'
    "<b>{what}</b></td>"
    '<td style="padding:2px 0"><code style="overflow-wrap:anywhere">{how}</code></td></tr>'
)


def exported(run: Run) -> list[Path]:
    """The report and the traces that the run's folder holds."""
    report = run.path / "report.html"
    return [path for path in (report, run.merged, *run.traces) if path.exists()]


def nsys_command(run: Run) -> str:
    """The command line that records the same spec anew under Nsight Systems."""
    torchrun = f"torchrun --standalone --nproc-per-node={run.spec.plan.world} -m fapool run"
    output = shlex.quote(str(run.path / "trace" / "nsys"))
    spec = shlex.quote(str(run.path / "spec.json"))
    return f"nsys profile --trace=cuda,nvtx,osrt --output={output} {torchrun} {spec}"


def describe_exports(run: Run) -> str:
    """HTML: each file with the tool that opens it."""
    report, folder = run.path / "report.html", run.path / "trace"
    rows = [("folder", str(run.path))]
    if report.exists():
        rows.append(("report, any browser", str(report)))
    else:
        rows.append(("no report", f"only a finished run has one; this one {run.status.state}"))
    if run.merged.exists():
        rows.append(("Perfetto, all ranks on one clock", str(run.merged)))
        command = f"python -m fapool perfetto {shlex.quote(str(run.path))}"
        rows.append(("the same, offline", command))
    snapshots = sorted((run.path / "memory").glob("rank*.pickle"))
    rows += [(f"{path.stem}: drop on pytorch.org/memory_viz", str(path)) for path in snapshots]
    rows += [(f"trace of {path.name.split('.')[0]}", str(path)) for path in run.traces]
    if run.traces:
        rows.append(("TensorBoard", f"tensorboard --logdir {shlex.quote(str(folder))}"))
    else:
        rows.append(("no traces", "set traced steps above 0 and run again"))
    rows.append(("Nsight Systems", nsys_command(run)))
    lines = "".join(_ROW.format(what=what, how=html.escape(how)) for what, how in rows)
    return f'<table style="font-size:12px;line-height:1.4">{lines}</table>'
