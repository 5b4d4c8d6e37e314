"""What the panels read of runs: a row of the table, a headline, figures, a comparison."""

from __future__ import annotations

import html
from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from fapool.analysis import memory, summary
from fapool.analysis.comparison.table import beside_plan, side_by_side, spreads
from fapool.analysis.kinds import usual
from fapool.analysis.load import Tables
from fapool.analysis.measured import on_gpus
from fapool.analysis.metrics import definitions, per_repeat, per_request
from fapool.analysis.sampled import WITHOUT
from fapool.analysis.steps import timeline
from fapool.analysis.study import Study, studies, study
from fapool.errors import FapoolError
from fapool.figures import bars
from fapool.figures.comparison import comparison as comparison_figure
from fapool.figures.timeline import step_timeline
from fapool.spec import RangeWorkload, RunSpec, Workload
from fapool.store import Run

COLUMNS = (
    "started (UTC)",
    "plan",
    "model",
    "workload (tokens)",
    "state",
    "TTFT p50, ms",
    "TPOT p50, ms",
    "TPS",
    "TPS / rank",
)
MEASURED = ("TTFT p50, ms", "TPOT p50, ms", "TPS", "TPS / rank")
HEADLINE = {
    "ttft_p50": "TTFT p50",
    "tpot_p50": "TPOT p50",
    "tpot_p99": "TPOT p99",
    "tps": "TPS",
    "tps_per_gpu": "TPS per GPU",
    "tps_per_charged_gpu": "TPS per charged GPU",
    "utilisation_base": "base utilisation",
    "utilisation_pool": "pool utilisation",
}
_NONE = ("–",) * len(MEASURED)


def cells(run: Run) -> tuple[str, ...]:
    """The run's row under `COLUMNS`; a dash where it has no performance."""
    try:
        spec, status = run.spec, run.status
        known = (str(spec.plan), spec.model.name, workload_words(spec))
        measured, state = _NONE, status.state
        if state == "finished" and run.correctness.get("passed") is not True:
            state = "not correct"
        elif state == "finished":
            measured = _measured(run)
        return (status.started_at[:19].replace("T", " "), *known, state, *measured)
    except (FapoolError, ValueError, OSError, KeyError) as error:
        return ("–", "–", "–", "–", f"unreadable: {error}"[:60], *_NONE)


def workload_words(spec: RunSpec) -> str:
    """The workload in a few letters: `2 × (2048 + 64)`."""
    work = spec.workload
    if isinstance(work, Workload):
        return f"{work.batch} × ({work.context} + {work.output})"
    drawn = isinstance(work, RangeWorkload)
    source = f"{work.shortest}-{work.longest}" if drawn else work.path.name
    return f"{work.sample} of {source} × {work.length_scale:.3g}"


def result(run: Run) -> tuple[str, list[Figure]]:
    """Headline (HTML) and figures of one run that has steps, finished or stopped."""
    read = study(run)
    kind = usual(read.parted.steps)
    by_rank = summary.by_rank(read.parted, kind)
    title, figures = f"{read.label}: where a {kind} step goes", []
    if read.has_spans:
        step = timeline.typical_step(read.tables)
        figures += [
            bars.breakdown_per_rank(by_rank, title=title, kind=kind),
            step_timeline(
                timeline.one_step(read.tables, step=step),
                title=f"{read.label}: {kind} step {step}, the nearest to the median",
            ),
        ]
    if len(read.tables.memory):
        peak, title = memory.peak(read.tables), f"{read.label}: memory at its peak"
        figures.append(bars.memory_per_rank(peak, title=title))
    return _headline(read), figures


def comparison(runs: list[Run]) -> tuple[str, Figure]:
    """Table (HTML) and figure of runs side by side, the first one being the measure.

    Raises:
        StoreError: a run did not finish or was not correct.
    """
    found = studies(*runs)
    differs = beside_plan(found)
    gpus = all(on_gpus(read) for read in found)
    device = "GPU" if gpus else "rank"
    figure = comparison_figure(spreads(found), title="Runs compared", device=device)
    table = _table(side_by_side(found), definitions(on_gpus=gpus))
    return _differences(differs) + table, figure


def _measured(run: Run) -> tuple[str, ...]:
    # Neither function reads events or memory, which are large.
    none = pd.DataFrame()
    few = {"steps": run.table("steps"), "requests": run.table("requests")}
    tables = Tables(name=run.name, spec=run.spec, events=none, memory=none, **few)
    requests, repeats = per_request(tables), per_repeat(tables)
    tokens = repeats["input_tokens"].sum() + repeats["output_tokens"].sum()
    tps = tokens / repeats["elapsed_s"].sum()
    found = (requests["ttft_ms"].median(), requests["tpot_ms"].median())
    return tuple(_number(value) for value in (*found, tps, tps / run.spec.plan.world))


def _headline(read: Study) -> str:
    gpus = on_gpus(read)
    means = definitions(on_gpus=gpus)
    chips = [
        f'<span title="{html.escape(means[name][1])}" style="white-space:nowrap">'
        f'<span style="color:var(--jp-ui-font-color2)">'
        f"{words if gpus else words.replace('GPU', 'rank')}</span> "
        f"<b>{_number(read.metrics[name])}</b> {means[name][0]}</span>"
        for name, words in HEADLINE.items()
        if read.metrics[name] is not None
    ]
    state = "" if read.run.status.state == "finished" else f" ({read.run.status.state})"
    words = f"{html.escape(read.run.name)}{state} · {html.escape(workload_words(read.run.spec))}"
    if read.sampling:
        words += f" · {html.escape(read.sampling.words)}"
    if not read.has_spans:
        words += f" · {html.escape(WITHOUT)}"
    row = '<div style="display:flex;flex-wrap:wrap;gap:2px 18px;line-height:1.5">{}</div>'
    return f'<div style="line-height:1.5"><b>{words}</b></div>' + row.format("".join(chips))


def _differences(differs: dict[str, list]) -> str:
    rows = [
        f"{html.escape(field)}: {html.escape(' / '.join(map(str, values)))}"
        for field, values in differs.items()
    ]
    if not rows:
        return "<p>Only the plan differs.</p>"
    return f'<p style="line-height:1.4">Besides the plan these differ: {"; ".join(rows)}</p>'


def _table(found: pd.DataFrame, means: Mapping[str, tuple[str, str]]) -> str:
    cell = '<td style="text-align:right;padding:1px 0 1px 18px">{}</td>'
    head = '<th style="padding-left:18px;text-align:right">{}</th>'
    heads = "".join(head.format(html.escape(label)) for label in found.columns[1:])
    lines = []
    for metric, row in found.iterrows():
        numbers = "".join(cell.format(_number(value)) for value in row.iloc[1:])
        name, title = means[metric][0], html.escape(means[metric][1])
        unit = f'<td style="padding-left:18px;color:var(--jp-ui-font-color2)">{name}</td>'
        lines.append(f'<tr title="{title}"><td>{_words(metric)}</td>{unit}{numbers}</tr>')
    style = "font-size:12px;line-height:1.35;border-collapse:collapse;text-align:left"
    first = '<th>metric</th><th style="padding-left:18px">unit</th>'
    return f'<table style="{style}"><tr>{first}{heads}</tr>{"".join(lines)}</table>'


def _number(value: float | None) -> str:
    if value is None or pd.isna(value):
        return "–"
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:#.3g}"


def _words(metric: str) -> str:
    return " ".join(_CAPITALS.get(part, part) for part in metric.split("_"))


_CAPITALS = {"ttft": "TTFT", "tpot": "TPOT", "tps": "TPS", "gpu": "GPU", "gpus": "GPUs"}
