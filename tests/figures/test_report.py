"""A report stands alone, adds up as printed, and hides nothing that tells against it."""

import re
from html.parser import HTMLParser

import pytest

from fapool.analysis.metrics import DEFINITIONS
from fapool.errors import StoreError
from fapool.figures import changed, report
from fapool.figures.report import number, write_report
from fapool.phases import Category
from fapool.spec import Static, Workload
from tests.synthetic import small_spec, write_run

CATEGORIES = [category.value for category in Category][:-1]  # idle has no phase


class Page(HTMLParser):
    """Text, links and tables of a page."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.rows: list[list[str]] = []
        self.open: list[str] = []
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.links += [value for name, value in attrs if name in ("src", "href", "xlink:href")]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.open.pop()

    def handle_data(self, data):
        if self.open:
            self.rows[-1][-1] += data.strip()


def of_metrics(source: str) -> str:
    """The page up to what changed, whose tables name the metrics once more."""
    return source.partition("<h2>What changed")[0]


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("profiles")
    runs = [write_run(folder), write_run(folder, small_spec(plan=Static(tp=2)))]
    return write_report(runs, folder / "report.html").read_text()


@pytest.fixture
def words_alone(monkeypatch) -> None:
    """Figures are made and not drawn: for pages of which only the words are looked at."""
    monkeypatch.setattr(report, "svg", lambda figure: "")
    monkeypatch.setattr(changed, "svg", lambda figure: "")


def test_nothing_is_loaded_from_elsewhere(source):
    page = Page(source)
    assert all(link.startswith("#") for link in page.links)
    assert not re.search(r"<(script|link|img|iframe)\b|@import|url\((?!#)", source)


def test_every_row_of_a_breakdown_adds_up_as_printed(source):
    rows = [row for row in Page(source).rows if re.fullmatch(r"\d+ \((base|pool)\)", row[0])]
    assert len(rows) == 2 * (4 + 2)  # decode and prefill
    for _, _, *parts, wall, _ in rows:
        assert sum(round(float(part) * 1000) for part in parts) == round(float(wall) * 1000)


def test_samples_of_each_run_stand_with_mean_percentiles_and_spread(source):
    rows = [row for row in Page(of_metrics(source)).rows if row[1:2] == ["TPOT"]]
    assert [row[0] for row in rows] == ["FAPool(2,2)", "Static(2,1)"]
    assert all(row[2] == "4 requests" and row[-2].endswith("%") for row in rows)


def test_phases_of_a_rank_sum_to_its_categories_as_printed(source):
    rows = Page(source).rows
    heads = [at for at, row in enumerate(rows) if row[:2] == ["counts as", "phase"]]
    tables = [at for at, row in enumerate(rows) if row[:1] == ["rank"] and "= wall" in row]
    assert len(heads) == len(tables) == 4  # two runs, decode and prefill
    for head, table in zip(heads, tables, strict=True):
        end = next(at for at in range(head + 1, len(rows)) if rows[at][0] not in CATEGORIES)
        for column, name in enumerate(rows[head][2:]):
            (whole,) = [row for row in rows[table:head] if row[0] == name]
            for part, category in zip(whole[2:6], CATEGORIES, strict=True):
                own = [row[2 + column] for row in rows[head + 1 : end] if row[0] == category]
                assert sum(round(float(ms) * 1e3) for ms in own) == round(float(part) * 1e3)


def test_every_metric_stands_with_its_definition(source):
    rows = {row[0]: row for row in Page(of_metrics(source)).rows if row}
    for name, (unit, definition) in DEFINITIONS.items():
        assert rows[name][1] == unit
        assert rows[name][-1] == definition


def test_keys_of_each_rank_stand_at_their_most(source):
    # two requests of 99 tokens in 4 blocks of 32 each, at the end of the last step
    assert ["rank 3 (pool)", "2", "8", "198", "77%", "0.2", "3"] in Page(source).rows


@pytest.mark.usefixtures("words_alone")
def test_definitions_stand_beneath_the_metrics_of_many_runs(tmp_path):
    plans = [Static(tp=tp, pp=pp) for tp, pp in ((1, 1), (1, 2), (2, 1), (2, 2), (4, 1))]
    runs = [write_run(tmp_path, small_spec(plan=plan)) for plan in plans]
    rows = Page(of_metrics(write_report(runs, tmp_path / "r.html").read_text())).rows
    for name, (unit, definition) in DEFINITIONS.items():
        figures, words = [row[1:] for row in rows if row[:1] == [name]]
        assert figures[0] == unit
        assert len(figures) == 1 + len(runs)
        assert words == [definition]


def test_unequal_numbers_of_gpus_are_pointed_out(source):
    assert "The runs reserve different numbers of GPUs" in source
    assert "More than the plan differs" not in source


@pytest.mark.usefixtures("words_alone")
def test_what_differs_beside_the_plan_is_pointed_out(tmp_path):
    other = small_spec(workload=Workload(batch=2, context=90, output=4), plan=Static(tp=4))
    path = write_report([write_run(tmp_path), write_run(tmp_path, other)], tmp_path / "r.html")
    page = path.read_text()
    assert "More than the plan differs" in page
    assert "All runs reserve the same number of GPUs (4)" in page


def test_a_run_alone_has_a_report(tmp_path):
    spec = small_spec(workload=Workload(batch=2, context=96, output=1))
    page = write_report([write_run(tmp_path, spec)], tmp_path / "deep" / "r.html").read_text()
    assert "prefill steps" in page
    assert "FAPool(2,2)" in page


@pytest.mark.usefixtures("words_alone")
def test_what_changed_adds_up_as_printed_in_every_column(tmp_path):
    spec = small_spec(repeats=3)
    runs = [write_run(tmp_path, spec), write_run(tmp_path, spec, slow=1.2)]
    page = write_report(runs, tmp_path / "r.html").read_text().partition("<h2>What changed")[2]
    rows = [row for row in Page(page.partition("<h2>")[0]).rows if len(row) == 7]
    rows = [row for row in rows if row[0] != "phase"]
    ends = [at for at, row in enumerate(rows) if row[0] == "= step"]
    assert len(ends) == 2  # base and pool
    for first, last in zip([0, ends[0] + 1], ends, strict=True):
        for column in (2, 3, 4):
            *parts, whole = [round(float(row[column]) * 1e4) for row in rows[first : last + 1]]
            assert sum(parts) == whole


@pytest.mark.usefixtures("words_alone")
def test_doubts_stand_in_the_report_and_only_where_there_are_any(tmp_path, source):
    assert "all runs: 2 repeats: intervals tell what varies inside the run" in source
    work = Workload(batch=100, context=96, output=2)
    spec = small_spec(repeats=3, workload=work, plan=Static())
    page = write_report([write_run(tmp_path, spec)], tmp_path / "r.html").read_text()
    assert "<h2>Doubts" not in page
    assert "<h2>What changed" not in page


def test_text_from_a_run_is_escaped(tmp_path):
    run = write_run(tmp_path)
    (run.path / "environment.json").write_text('{"device": "<script>alert(1)</script>"}')
    page = write_report([run], tmp_path / "r.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page


@pytest.mark.usefixtures("words_alone")
@pytest.mark.parametrize(
    ("left", "why"), [(None, "has no environment.json"), ("{", "its environment.json is cut short")]
)
def test_a_run_that_does_not_say_where_it_ran_has_a_report_that_says_so(tmp_path, left, why):
    run = write_run(tmp_path)
    where = run.path / "environment.json"
    where.unlink()
    if left:
        where.write_text(left)
    page = write_report([run], tmp_path / "r.html").read_text()
    assert re.search(f"What it ran on is not known: .*{why}", page)
    rows = {row[0]: row[1:] for row in Page(page).rows if row}
    assert rows["ran on"] == ["4 ranks, device not recorded"]
    assert rows["tpot_p50"]


def test_an_incorrect_run_gets_no_report(tmp_path):
    with pytest.raises(StoreError, match="failed its check"):
        write_report([write_run(tmp_path, passed=False)], tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


def test_what_was_measured_stands_at_the_top_unfolded(source):
    top = source[: source.index("<h2>Question")]
    assert "<h1>FAPool(2,2) beside Static(2,1)</h1>" in top
    assert "<details" not in top
    assert "No GPU was used here" not in source
    rows = {row[0]: row[1:] for row in Page(top).rows}
    assert rows["workload"] == ["2 equal requests of 96 + 4 tokens"]  # one cell for both
    assert rows["threshold"] == ["leased past 64 tokens", "none: no pool"]
    assert rows["model"][0].endswith("float32, random weights")


@pytest.mark.usefixtures("words_alone")
def test_ranks_without_a_gpu_are_not_called_gpus(tmp_path):
    spec = small_spec(device="cpu")
    runs = [write_run(tmp_path, spec), write_run(tmp_path, spec.replace(plan=Static(tp=4)))]
    page = write_report(runs, tmp_path / "r.html").read_text()
    assert "4 CPU ranks" in page
    assert "No GPU was used here" in page
    assert "All runs reserve the same number of ranks (4)" in page
    rows = {row[0]: row for row in Page(of_metrics(page)).rows if row}
    assert rows["tps_per_gpu"][1] == "tokens/s/rank"
    assert "rank" in rows["charged_gpus"][-1]


def test_numbers_of_gpus_stand_without_a_ratio(source):
    rows = {row[0]: row for row in Page(of_metrics(source)).rows if row}
    for name in ("gpus", "charged_gpus"):
        assert not any("×" in cell for cell in rows[name][2:4])
    assert "×" in rows["tps_per_gpu"][3]


@pytest.mark.usefixtures("words_alone")
@pytest.mark.parametrize(
    ("warmup", "sentence"), [(0, "No warm-up: the first steps"), (1, "Warm-up passes are not in")]
)
def test_a_run_without_warm_up_says_so(tmp_path, warmup, sentence):
    run = write_run(tmp_path, small_spec(warmup=warmup))
    assert sentence in write_report([run], tmp_path / "r.html").read_text()


@pytest.mark.usefixtures("words_alone")
def test_a_run_of_sampled_steps_says_which_share_and_what_sampling_took(tmp_path, source):
    page = write_report([write_run(tmp_path, sample_every=2)], tmp_path / "r.html").read_text()
    assert re.search(
        r"1 in 2 decode steps sampled; median of sampled steps [\d.]+ ms, of others [\d.]+ ms", page
    )
    assert "spans were timed by host clock." in page
    assert "decode steps sampled" not in source


def test_a_run_without_spans_and_memory_has_a_report_of_all_else(tmp_path):
    runs = [write_run(tmp_path), write_run(tmp_path, spans=False, memory=False)]
    page = write_report(runs, tmp_path / "r.html").read_text()
    assert page.count("No spans were recorded (capture.spans: false): no breakdown") == 1
    assert f"{runs[1].name}: no spans were recorded" in page
    assert "= step" not in page
    assert f"{runs[1].name}: where" not in page


@pytest.mark.usefixtures("words_alone")
def test_what_sampling_outweighs_is_told_above_the_phases_that_it_is_true_of(tmp_path):
    runs = [write_run(tmp_path, sample_every=2, slow=slow) for slow in (1, 1.01)]
    page = write_report(runs, tmp_path / "r.html").read_text().partition("<h2>What changed")[2]
    assert "Beware: sampling adds 0.09 ms to a step of A" in page
    assert page.index("Beware") < page.index("Mean ms per sampled decode step of a base rank")


def test_step_borders_are_told_to_be_each_ranks_own(source):
    assert "Step borders are each rank's own" in source


def test_a_report_that_cannot_be_written_says_where_and_what_to_do(tmp_path):
    run = write_run(tmp_path)
    with pytest.raises(StoreError, match=rf"{tmp_path} is a folder; name a file in it"):
        write_report([run], tmp_path)
    (tmp_path / "afile").write_text("mine")
    with pytest.raises(StoreError, match=r"the report .*afile/r.html cannot be written"):
        write_report([run], tmp_path / "afile" / "r.html")
    assert sorted(path.name for path in tmp_path.iterdir()) == [run.name, "afile"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (float("nan"), "–"),
        (4, "4"),
        (2.21, "2.210"),
        (123.4, "123.4"),
        (1e5 + 0.5, "100,000"),
    ],
)
def test_numbers_have_four_digits(value, text):
    assert number(value) == text
