"""Notebooks are thin, stripped and run from top to bottom."""

import json
import re
from pathlib import Path

import nbclient
import nbformat
import pytest

ROOT = Path(__file__).parent.parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MAX_CELL_LINES = 6
CELL_DEADLINE_S = 120

# Cells that a test puts after the workbench: the smallest run, on ranks of its own.
SMALL_RUN = """
workbench.set(model="tiny", context=128, threshold=64, output=4, profile_steps=0)
workbench.run()
run = workbench.wait(110)
"""
STATIC_RUN = """
workbench.set(plan="Static", static=(2, 1))
workbench.run()
workbench.wait(60)
"""
AFTER = """
import json, sys
workbench.close_ranks()
print(json.dumps({"run": run.name, "torch": "torch" in sys.modules}))
"""

by_name = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(path: Path) -> list[nbformat.NotebookNode]:
    cells = nbformat.read(path, as_version=4).cells
    return [cell for cell in cells if cell.cell_type == "code"]


@by_name
def test_outputs_are_stripped(path):
    for cell in code_cells(path):
        assert cell.outputs == []
        assert cell.execution_count is None


@by_name
def test_cells_are_short_and_define_nothing(path):
    for cell in code_cells(path):
        assert len(cell.source.splitlines()) <= MAX_CELL_LINES, cell.source
        assert not re.search(r"^\s*(def|class|async def) ", cell.source, re.MULTILINE), cell.source


@by_name
def test_no_machine_or_user_is_in_the_metadata(path):
    metadata = json.loads(path.read_text())["metadata"]
    assert metadata.keys() <= {"kernelspec", "language_info"}
    assert metadata["kernelspec"]["name"] == "python3"


@pytest.mark.ranks
def test_the_workbench_runs_top_to_bottom(profiles, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(ROOT / "notebooks" / "00_workbench.ipynb", as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert "Workbench()" in code[0].source
    code[0].source = code[0].source.replace("Workbench()", "Workbench(num_ranks=2)")
    extra = [nbformat.v4.new_code_cell(text.strip()) for text in (SMALL_RUN, STATIC_RUN)]
    notebook.cells = [code[0], *extra, *code[1:], nbformat.v4.new_code_cell(AFTER.strip())]
    client = nbclient.NotebookClient(
        notebook, timeout=CELL_DEADLINE_S, kernel_name="python3", resources={"metadata": {}}
    )
    done = client.execute()
    said = json.loads(done.cells[-1].outputs[-1].text)
    assert not said["torch"], "the notebook's own kernel loaded torch"
    assert (profiles / said["run"] / "steps.parquet").exists()
    assert json.loads((profiles / said["run"] / "status.json").read_text())["state"] == "finished"
    shown = [widget["state"].get("value", "") for widget in _widgets(done)]
    texts = [value for value in shown if isinstance(value, str)]
    assert any("FAPool(1,1)" in text and "Static(2,1)" in text for text in texts)
    assert any(said["run"] in text and "TPOT p50" in text for text in texts)


def _widgets(notebook: nbformat.NotebookNode) -> list[dict]:
    kept = notebook.metadata.widgets["application/vnd.jupyter.widget-state+json"]["state"]
    return list(kept.values())
