"""The workbench as a user meets it: JupyterLab in Chromium, real ranks, every picture looked at."""

import os
import re
import shutil
import time
from pathlib import Path

import pytest

from tests.notebooks import lab

ROOT = Path(__file__).parent.parent.parent
RUN_DEADLINE_S = 120

pytestmark = [pytest.mark.browser, pytest.mark.ranks, pytest.mark.timeout(400)]


@pytest.fixture
def screenshots(tmp_path) -> Path:
    folder = Path(os.environ.get("FAPOOL_SCREENSHOTS") or tmp_path / "screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
def page(tmp_path, profiles):
    folder = tmp_path / "lab"
    (folder / "files").mkdir(parents=True)
    text = (ROOT / "notebooks" / "00_workbench.ipynb").read_text()
    assert "Workbench()" in text
    # Two ranks suffice to see all parts, and start sooner.
    small = text.replace("Workbench()", "Workbench(num_ranks=2)")
    (folder / "files" / "00_workbench.ipynb").write_text(small)
    with (
        lab.jupyterlab(folder, PYTHONPATH=str(ROOT), FAPOOL_PROFILES=str(profiles)) as address,
        lab.chromium() as page,
    ):
        lab.open_notebook(page, address, "00_workbench.ipynb")
        yield page


def button(page, label: str):
    found = page.locator("button.jupyter-button").filter(has_text=re.compile(f"^{label}$"))
    return found.first


def slider(page, label: str):
    """(handle, readout) of the slider with that label."""
    row = page.locator(".widget-hslider").filter(has_text=label).first
    return row.locator(".noUi-handle"), row.locator(".widget-readout")


def choose(page, label: str, option: str) -> None:
    page.locator(".widget-dropdown").filter(has_text=label).first.locator("select").select_option(
        label=option
    )


def bars(page, card: int = 0) -> list[str]:
    """What the bars of a card of the live picture say, as a screen reader would read them."""
    found = page.locator(".fapool-live").first.locator(".fapool-card").nth(card)
    texts = [bar.get_attribute("aria-label") for bar in found.locator(".fapool-bar").all()]
    return [text for text in texts if text]


def press_run(page, profiles: Path) -> set[tuple[str, ...]]:
    """Press Run and wait until its result is shown; the different bars seen on the way."""
    before = set(runs(profiles))
    button(page, "Run").click()
    seen: set[tuple[str, ...]] = set()
    deadline = time.monotonic() + RUN_DEADLINE_S
    while time.monotonic() < deadline:
        if said := bars(page):
            seen.add(tuple(said))
        new = [path.name for path in runs(profiles) if path not in before]
        if new and page.get_by_text(re.compile(f"^finished in .*: {new[0]}$")).count():
            return seen
        page.wait_for_timeout(60)
    panel = page.locator(".jp-OutputArea").first.inner_text()
    raise AssertionError(f"no result of a run; the panel says: {panel}")


def runs(profiles: Path) -> list[Path]:
    return [
        path
        for path in profiles.iterdir()
        if (path / "steps.parquet").exists() and not path.name.endswith(".partial")
    ]


def shares(label: str) -> dict[str, float]:
    return {name: float(value) for name, value in re.findall(r"(\w+) ([\d.]+) %", label)}


def test_a_user_measures_compares_and_exports(page, profiles, screenshots):
    expect = lab.expect
    lab.run_all(page)
    page.locator(".fapool-live").first.wait_for()
    expect(page.get_by_text("press Run").first).to_be_visible()
    page.screenshot(path=screenshots / "1_opened.png")

    # Choose: a small model, a longer sequence than the default, a pool of one.
    choose(page, "model", "tiny")
    handle, readout = slider(page, "sequence length")
    before = readout.inner_text()
    handle.focus()
    handle.press("ArrowRight")
    expect(readout).not_to_have_text(before)
    expect(page.get_by_text("FAPool(1,1)").first).to_be_visible()
    slider(page, "output tokens")[0].focus()
    for _ in range(8):
        slider(page, "output tokens")[0].press("PageUp")

    # Run: the bars of both ranks change while it goes on, and each sums to its whole.
    seen = press_run(page, profiles)
    page.locator(".widget-image").nth(2).wait_for()
    page.screenshot(path=screenshots / "2_finished.png")
    assert len(seen) >= 3, f"the bars did not move: {seen}"
    for label in bars(page):
        found = shares(label)
        assert list(found) == ["compute", "communication", "synchronization", "management", "idle"]
        assert sum(found.values()) == pytest.approx(100, abs=0.3)
    assert len(bars(page)) == 2
    assert "KV, used" in bars(page, card=1)[0]
    expect(page.locator(".fapool-plot").first).to_have_attribute(
        "aria-label", re.compile(r"TPOT [\d.]+ ms per token")
    )

    # The same on a static layout, then both side by side.
    button(page, "Static").click()
    expect(page.get_by_text("Static(2,1)").first).to_be_visible()
    press_run(page, profiles)
    page.locator(".lm-TabBar-tab").filter(has_text=re.compile("^Runs$")).click()
    rows = page.locator(".fapool-runs tbody tr")
    expect(rows).to_have_count(2)
    for row, plan in ((0, "Static(2,1)"), (1, "FAPool(1,1)")):
        expect(rows.nth(row)).to_contain_text(plan)
        expect(rows.nth(row)).to_contain_text("finished")
        rows.nth(row).click()
    button(page, "Compare").click()
    table = page.locator("table").filter(has_text="TPS per charged GPU")
    expect(table.first).to_contain_text("FAPool(1,1) / first")
    page.screenshot(path=screenshots / "3_compared.png")

    # Export: the report is written, and every file is listed with the tool that opens it.
    button(page, "Export").click()
    newest = max(runs(profiles), key=lambda path: (path / "status.json").stat().st_mtime)
    expect(page.get_by_text(str(newest / "report.html"))).to_be_visible()
    for tool in ("Perfetto", "TensorBoard", "nsys profile"):
        expect(page.get_by_text(tool).first).to_be_visible()
    assert (newest / "report.html").stat().st_size > 10_000
    page.screenshot(path=screenshots / "4_exported.png")

    # A mistake: said in the panel, with the way out; nothing starts.
    button(page, "From a trace").click()
    button(page, "Run").click()
    expect(page.get_by_role("alert")).to_contain_text("name an Azure .csv or a Mooncake .jsonl")
    assert len(runs(profiles)) == 2
    page.screenshot(path=screenshots / "5_mistake.png")
    shutil.copy(newest / "report.html", screenshots / "report.html")
