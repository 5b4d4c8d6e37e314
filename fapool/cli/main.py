"""The commands of `python -m fapool`; a user's mistake ends in one line and exit status 2."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fapool.errors import FapoolError

if TYPE_CHECKING:
    from fapool.store import Store

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="When does it pay to lend extra GPUs to attention?",
)

Root = Annotated[
    Path | None, typer.Option("--store", help="folder of runs; else $FAPOOL_PROFILES, profiles/")
]


@app.command()
def run(spec: Path, store: Root = None) -> None:
    """Run a spec (YAML or JSON): `torchrun --nproc-per-node N -m fapool run spec.yaml`."""
    # Notices of torch's C++ side; both are read when torch is loaded.
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    from fapool.cli.run import run_here  # loads torch: only this command needs it

    run_here(spec, _store(store))


@app.command()
def demo(
    trace: Annotated[
        Path | None, typer.Option(help="request lengths: Azure .csv or Mooncake .jsonl")
    ] = None,
    ranks: Annotated[int, typer.Option(min=4, help="CPU ranks to start")] = 4,
    store: Root = None,
) -> None:
    """FA Pool against Helix and static layouts on CPU ranks, for request lengths of a trace."""
    from fapool.cli.demo import demo as run_demo

    run_demo(_store(store), trace=trace, ranks=ranks)


@app.command()
def runs(store: Root = None) -> None:
    """List the runs in the store."""
    from fapool.cli import show as shows

    shows.runs(_store(store))


@app.command()
def show(
    name: str,
    layers: Annotated[bool, typer.Option("--layers", help="by layer, too")] = False,
    json_out: Annotated[
        Path | None, typer.Option("--json", help="write each step by phase and layer here")
    ] = None,
    store: Root = None,
) -> None:
    """Print one run's breakdown, by phase, and metrics."""
    from fapool.cli import show as shows

    shows.show(_store(store).open(name), layers=layers, out=json_out)


@app.command()
def compare(
    names: list[str],
    report: Annotated[Path | None, typer.Option(help="write report.html here")] = None,
    store: Root = None,
) -> None:
    """Print runs side by side with ratios to the first, and what changed from it, per phase."""
    from fapool.cli import show as shows

    shows.compare([_store(store).open(name) for name in names], report=report)


@app.command()
def analyze(
    folder: Path,
    step: Annotated[int | None, typer.Option(help="only ProfilerStep#N")] = None,
    json_out: Annotated[Path | None, typer.Option("--json", help="write all steps here")] = None,
) -> None:
    """Print where the time went in any folder of torch.profiler's traces."""
    from fapool.traces import Reading

    reading = Reading(folder, ops=None, processes=None)  # goes on while pandas loads
    from fapool.cli import analyze as analyzes

    analyzes.analyze(folder, step=step, out=json_out, reading=reading)


@app.command()
def perfetto(
    name: str,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: a free one")] = 0,
    store: Root = None,
) -> None:
    """Open a run's merged trace in an offline Perfetto, on loopback, until Ctrl-C."""
    from fapool.cli import perfetto as pages

    pages.perfetto(_store(store).open(name), port)


@app.command()
def protocol(
    specs: Annotated[list[Path], typer.Argument(help="a spec per plan; the first is the measure")],
    out: Annotated[Path, typer.Option(help="folder for the specs of all runs")],
    sequences: Annotated[
        int | None, typer.Option(min=1, help="per category and trial, fewer than 1000")
    ] = None,
    trials: Annotated[int | None, typer.Option(min=1, help="fewer than 3")] = None,
    scale: Annotated[
        float, typer.Option(help="shrinks lengths and threshold, such as 0.0625 on a CPU")
    ] = 1.0,
) -> None:
    """Write the paper's protocol as specs: 4 categories of length, 3 trials, 1000 sequences each.

    Runs nothing: it prints how to run them (by torchrun, one after the other) and how to have them
    judged (by `verdict`). Plan, model, batch and output tokens are those of SPECS.
    """
    from fapool.cli.protocol import write_specs

    write_specs(specs, out, sequences=sequences, trials=trials, scale=scale)


@app.command()
def verdict(names: list[str], store: Root = None) -> None:
    """Judge finished runs of `protocol`: intervals, p, effect, and which conditions hold.

    NAMES are runs or their folders, of two plans or more; the first run's plan is the measure.
    """
    from fapool.cli.protocol import judge

    judge(
        [
            _store(store).open(Path(name).absolute() if Path(name).is_dir() else name)
            for name in names
        ]
    )


@app.command()
def schema() -> None:
    """Print the JSON schema of a spec: every field, its type and its limits."""
    from fapool.spec import RunSpec

    typer.echo(json.dumps(RunSpec.model_json_schema(), indent=2))


def _store(root: Path | None) -> Store:
    from fapool.store import Store  # loads pandas

    return Store(root)


def main() -> None:
    """Run the command line."""
    try:
        app()
    except FapoolError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
