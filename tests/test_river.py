"""The river: imports point down only, the banks never touch, files and functions stay short."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAX_FILE_LINES = 250
MAX_FUNCTION_LINES = 40

# place -> (depth, bank); a place is a module or a package with all that is in it.
RIVER = {
    "fapool": (0, "bed"),  # the root __init__ alone: the version, and nothing imported
    "fapool.errors": (0, "bed"),
    "fapool.deals": (1, "bed"),
    "fapool.phases": (1, "bed"),
    "fapool.presets": (1, "bed"),
    "fapool.sample": (1, "bed"),
    "fapool.paper": (1, "bed"),
    "fapool.spec": (1, "bed"),
    "fapool.balance": (2, "bed"),
    "fapool.pieces": (2, "bed"),
    "fapool.protocol": (2, "bed"),
    "fapool.workload": (2, "bed"),
    "fapool.topology": (2, "bed"),
    "fapool.schedule": (2, "bed"),
    "fapool.leases": (2, "bed"),
    "fapool.store": (3, "bed"),
    "fapool.forecast": (4, "bed"),
    "fapool.traces": (4, "bed"),
    "fapool.instrument": (5, "left"),
    "fapool.runtime": (6, "left"),
    "fapool.rank": (7, "left"),
    "fapool.cluster": (8, "left"),
    "fapool.analysis": (5, "right"),
    "fapool.figures": (6, "right"),
    "widgets": (9, "top"),
    "fapool.cli": (9, "top"),
    "fapool.__main__": (10, "top"),
}
# Within these depths places may import each other; cycles stay forbidden.
SIBLINGS = {1, 2}
# Needs torch, so the top reaches it through fapool.cluster.
BEHIND_THE_CLUSTER = {"fapool.instrument", "fapool.runtime", "fapool.rank"}
# `fapool run` is what torchrun starts: there the command line is the rank.
EXCEPTIONS = {("fapool.cli.run", "fapool.rank")}
TORCHLESS = (
    "fapool.forecast",
    "fapool.traces",
    "fapool.analysis",
    "fapool.figures",
    "fapool.cluster",
    "widgets",
)


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {
    module_name(path): path
    for package in ("fapool", "widgets")
    for path in sorted((ROOT / package).rglob("*.py"))
}
TREES = {name: ast.parse(path.read_text(), filename=str(path)) for name, path in SOURCES.items()}


def place_of(module: str) -> str:
    """The innermost place of the river that holds a module."""
    parts = module.split(".")
    if parts[0] == "fapool" and len(parts) > 1:
        return ".".join(parts[:2])
    return parts[0]


def imported_modules(module: str) -> Iterator[str]:
    """Our own modules that a module imports, wherever in the file it does so."""
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [
                submodule
                if (submodule := f"{node.module}.{alias.name}") in SOURCES
                else node.module
                for alias in node.names
            ]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] in ("fapool", "widgets"))


IMPORTS = {module: sorted(set(imported_modules(module))) for module in SOURCES}


def objection(importer: str, imported: str) -> str | None:
    """Why the river forbids an import, None when it does not."""
    above, below = place_of(importer), place_of(imported)
    if above == below or (importer, below) in EXCEPTIONS:
        return None
    (depth, bank), (depth_below, bank_below) = RIVER[above], RIVER[below]
    if {bank, bank_below} == {"left", "right"}:
        return "the banks never touch"
    if bank == "top" and below in BEHIND_THE_CLUSTER:
        return "the top reaches the ranks through fapool.cluster"
    if depth_below > depth or (depth_below == depth and depth not in SIBLINGS):
        return f"{below} does not lie below {above}"
    return None


def inside(module: str, folders: list[str]) -> str | None:
    """The folder of the analysis that a module is of, "" for none; None outside of it."""
    place, _, name = module.removeprefix("fapool.").partition(".")
    if place != "analysis":
        return None
    folder = name.partition(".")[0]
    return folder if folder in folders else ""


def functions(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Name and number of lines of every function."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, node.end_lineno - node.lineno + 1


def test_every_module_has_a_place_in_the_river():
    homeless = [module for module in SOURCES if place_of(module) not in RIVER]
    assert not homeless, f"give these a depth and a bank in RIVER: {homeless}"


@pytest.mark.parametrize("module", SOURCES)
def test_imports_point_down(module):
    if place_of(module) not in RIVER:
        pytest.skip("has no place yet, which fails a test of its own")
    known = [imported for imported in IMPORTS[module] if place_of(imported) in RIVER]
    objections = {imported: why for imported in known if (why := objection(module, imported))}
    assert not objections


@pytest.mark.parametrize(
    ("importer", "imported", "allowed"),
    [
        ("fapool.runtime.engine", "fapool.instrument.span", True),
        ("fapool.runtime.engine", "fapool.runtime.model", True),
        ("fapool.instrument.span", "fapool.runtime.engine", False),
        ("fapool.spec", "fapool.phases", True),
        ("fapool.store", "fapool.forecast", False),
        ("fapool.figures", "fapool.instrument", False),
        ("fapool.cluster", "fapool.analysis", False),
        ("widgets.workbench", "fapool.cluster", True),
        ("widgets.workbench", "fapool.runtime.engine", False),
        ("fapool.cli.run", "fapool.rank", True),
        ("fapool.cli.demo", "fapool.rank", False),
        ("fapool.__main__", "fapool.cli", True),
        ("fapool.cli", "widgets", False),
    ],
)
def test_the_river_flows_one_way(importer, imported, allowed):
    assert (objection(importer, imported) is None) == allowed


def test_no_module_imports_itself_around_a_corner():
    # A package's __init__ may list its modules, and each of them name a sibling: edges are the
    # modules that an import statement spells out, not the packages that Python runs on the way.
    graph = {module: set(imported) - {module} for module, imported in IMPORTS.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail("imports go round: " + " <- ".join(error.args[1]), pytrace=False)


def test_the_folders_of_the_analysis_stand_on_its_own_files_and_on_each_other_one_way():
    folders = [path.parent.name for path in (ROOT / "fapool/analysis").glob("*/__init__.py")]
    stands_on = {folder: set() for folder in ["", *folders]}
    for module in SOURCES:
        if module.startswith("fapool.analysis."):
            own, others = inside(module, folders), (inside(m, folders) for m in IMPORTS[module])
            stands_on[own] |= {other for other in others if other is not None} - {own}
    assert not stands_on.pop(""), "what everything stands on imports one of the folders"
    TopologicalSorter(stands_on).prepare()


def test_imports_are_absolute():
    relative = [
        f"{SOURCES[module].relative_to(ROOT)}:{node.lineno}"
        for module, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert not relative


def test_no_module_is_a_drawer_for_everything():
    drawers = [name for name in SOURCES if name.split(".")[-1] in ("utils", "helpers", "common")]
    assert not drawers, f"name these after what they know: {drawers}"


def test_files_are_short():
    lines = {module: len(path.read_text().splitlines()) for module, path in SOURCES.items()}
    long = {module: count for module, count in lines.items() if count > MAX_FILE_LINES}
    assert not long, f"files over {MAX_FILE_LINES} lines: {long}"


def test_functions_are_short():
    long = {
        f"{module}.{name}": count
        for module, tree in TREES.items()
        for name, count in functions(tree)
        if count > MAX_FUNCTION_LINES
    }
    assert not long, f"functions over {MAX_FUNCTION_LINES} lines: {long}"


@pytest.mark.parametrize("module", [module for module in TORCHLESS if module in SOURCES])
def test_the_laptop_side_opens_without_torch(module):
    program = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr or f"importing {module} loads torch"
