"""What is installed, by which version and with what, and what `make` would do."""

from __future__ import annotations

import os
import pkgutil
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import focus_env
from focus_agents.cli.main import main
from tests.places import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def requirements(lines: list[str]) -> dict[str, Requirement]:
    return {requirement.name: requirement for requirement in map(Requirement, lines)}


def make(*arguments: str) -> str:
    """What `make` prints, called as if from a shell even if these tests run under `make test`."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    environment = {key: value for key, value in os.environ.items() if key not in ("MAKEFLAGS", "MFLAGS", "RUN")}
    result = subprocess.run(
        ["make", "--no-print-directory", *arguments],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_version_is_that_of_the_changelog_and_the_citation() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    top = re.search(r"^## \[([^\]]+)\]", changelog, re.MULTILINE)
    assert top is not None
    assert top[1] == focus_env.__version__
    assert f"\nversion: {focus_env.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


@pytest.mark.parametrize("package", ["focus_env", "focus_agents"])
def test_packages_say_that_they_are_typed(package: str) -> None:
    assert (ROOT / package / "py.typed").is_file()


@pytest.mark.parametrize(
    ("version", "is_admitted"), [("2.14.0", False), ("2.10.1", False), ("2.13.0", True), ("2.13.0+cpu", True)]
)
def test_range_of_torch(version: str, is_admitted: bool) -> None:
    torch = requirements(PROJECT["optional-dependencies"]["train"])["torch"]
    assert torch.specifier.contains(version) == is_admitted


def test_the_program_is_called_focus() -> None:
    ((name, entry),) = PROJECT["scripts"].items()
    assert name == "focus"
    assert pkgutil.resolve_name(entry) is main


def test_the_environment_alone_needs_nothing_heavy() -> None:
    core = set(requirements(PROJECT["dependencies"]))
    assert core == {"gymnasium", "numpy", "pillow", "pyarrow", "shapely"}


def test_licence_is_the_standard_text() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert PROJECT["license"] == "Apache-2.0"
    assert text.strip().startswith("Apache License\n                           Version 2.0, January 2004")
    assert text.strip().endswith("limitations under the License.")


def test_ci_calls_make_test_and_nothing_else() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert script.read_text().splitlines() == [
        "#!/usr/bin/env bash", "set -euo pipefail", 'cd "$(dirname "${BASH_SOURCE[0]}")/.."', "make test",
    ]  # fmt: skip


def test_make_alone_lists_every_target() -> None:
    phony = re.search(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert phony is not None
    assert re.findall(r"^  make (\w+) +\S", make(), re.MULTILINE) == phony[1].split()


def test_make_train_is_one_run_of_grpo() -> None:
    (words,) = [line.split() for line in make("--dry-run", "train").splitlines() if "experiments/" in line]
    assert Path(words[1]).name == "run_grpo.py"
    assert re.fullmatch(r"train-\d{8}-\d{6}", words[words.index("--name") + 1])
    assert "run_grpo.py --preset tracks --name mine" in make("--dry-run", "train", "RUN=mine")


def test_make_test_runs_every_test_once() -> None:
    lines = make("--dry-run", "test").splitlines()
    assert [line.split("/")[-1] for line in lines if "pytest" in line] == [
        'pytest -m "not ray and not e2e" -n auto --maxprocesses 8',
        'pytest -m "ray or e2e" -n 2 --dist loadfile --no-loadscope-reorder',
    ]
