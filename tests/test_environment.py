"""environment.yml and constraints.txt say the same as pyproject.toml."""

import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = {
    extra: {canonicalize_name(Requirement(line).name): Requirement(line) for line in lines}
    for extra, lines in {"": PROJECT["dependencies"], **PROJECT["optional-dependencies"]}.items()
}
DECLARED = {name: req for requirements in EXTRAS.values() for name, req in requirements.items()}
# Built against the torch that it meets, for the GPUs that it meets: no extra can promise it.
ONLY_IN_CONDA = {"flash-attn"}


def pins() -> dict[str, Requirement]:
    """constraints.txt by canonical name."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    requirements = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(requirement.name): requirement for requirement in requirements}


def conda() -> tuple[list[str], list[str]]:
    """What environment.yml asks of conda, and the lines it hands to pip."""
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    dependencies = environment["dependencies"]
    (pip,) = [entry["pip"] for entry in dependencies if isinstance(entry, dict)]
    return [entry for entry in dependencies if isinstance(entry, str)], pip


def pip_requirements() -> dict[str, Requirement]:
    """The packages that environment.yml names for pip, options left out."""
    lines = [line for line in conda()[1] if not line.startswith("-")]
    return {canonicalize_name(Requirement(line).name): Requirement(line) for line in lines}


def own_line() -> tuple[str, set[str]]:
    """The folder and the extras of the project's own line in environment.yml."""
    (line,) = [line for line in conda()[1] if line.startswith("-e ")]
    folder, _, extras = line.removeprefix("-e ").partition("[")
    return folder, set(extras.rstrip("]").split(","))


@pytest.mark.parametrize("name", sorted(pip_requirements().keys() & DECLARED.keys()))
def test_conda_asks_for_the_versions_that_the_project_asks_for(name):
    assert pip_requirements()[name].specifier == DECLARED[name].specifier


def test_conda_names_nothing_that_the_project_does_not_know():
    assert pip_requirements().keys() - DECLARED.keys() <= ONLY_IN_CONDA


def test_the_projects_own_line_covers_every_dependency():
    folder, extras = own_line()
    assert folder == "."
    assert extras == EXTRAS.keys() - {""}


def test_conda_takes_the_same_pins_as_make_setup():
    assert "-c constraints.txt" in conda()[1]


def test_condas_python_is_one_that_the_project_supports():
    (python,) = [entry for entry in conda()[0] if entry.startswith("python=")]
    version = python.removeprefix("python=") + ".0"
    assert SpecifierSet(PROJECT["requires-python"]).contains(version)


# A CUDA build of torch pins the triton that it brings: a second pin could contradict it.
PINNED_BY_TORCH = {"triton"}


@pytest.mark.parametrize("name", sorted(set(DECLARED) - PINNED_BY_TORCH))
def test_the_pin_of_a_dependency_satisfies_the_project(name):
    (pin,) = pins()[name].specifier
    assert DECLARED[name].specifier.contains(pin.version)


def test_constraints_pin_one_public_version_each():
    for name, requirement in pins().items():
        (pin,) = requirement.specifier
        assert pin.operator == "==", name
        assert Version(pin.version).local is None, f"{name}: a local build fits one machine only"
