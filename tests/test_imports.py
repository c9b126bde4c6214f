"""Imports run one way: the contracts in pyproject.toml notice what they forbid, and the picture shows what is there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import layers
from tests.places import ROOT

CONTRACTS = {
    "packages": "focus_env does not know its agents",
    "agents": "Folders of focus_agents import downwards only",
    "environment": "Folders and files of focus_env import downwards only",
    "cycles": "No circle at any depth",
    "environment-alone": "The environment needs neither models nor a cluster",
    "formulas": "Formulas, models and policies know neither Ray nor RLlib",
}


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The packages' source, which a test may spoil."""
    for package in layers.PACKAGES:
        python_only = shutil.ignore_patterns("__pycache__", "*_assets", "weights", "*.json")
        shutil.copytree(ROOT / package, tmp_path / package, ignore=python_only)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def lint_imports(folder: Path, *contracts: str) -> tuple[int, str]:
    """The exit code of `lint-imports` in a folder, and what it prints; all contracts if none is named."""
    named = [word for contract in contracts for word in ("--contract", contract)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache", *named],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return result.returncode, result.stdout


def test_the_contracts_are_kept(copy: Path) -> None:
    code, output = lint_imports(copy)
    assert code == 0, output
    for name in CONTRACTS.values():
        assert f"{name} KEPT" in output


@pytest.mark.parametrize(
    ("contract", "file", "line", "found"),
    [
        ("packages", "focus_env/boxes.py", "import focus_agents.errors", "focus_env.boxes -> focus_agents.errors"),
        (
            "agents", "focus_agents/models/attention.py", "from focus_agents.engine import generation",
            "focus_agents.models is not allowed to import focus_agents.engine",
        ),
        (
            "agents", "focus_agents/sft/step.py", "    import focus_agents.grpo.loss",
            "focus_agents.sft is not allowed to import focus_agents.grpo",
        ),
        (
            "agents", "focus_agents/grpo/loss.py", "from focus_agents.cli.common import run_path",
            "focus_agents.grpo is not allowed to import focus_agents.cli",
        ),
        ("agents", "focus_agents/helpers.py", "HELP = 1", "focus_agents.helpers"),
        (
            "environment", "focus_env/rewards/terms.py", "from focus_env import env",
            "focus_env.rewards is not allowed to import focus_env.env",
        ),
        (
            "environment", "focus_env/datasets/order.py", "from focus_env.rewards import terms",
            "focus_env.datasets is not allowed to import focus_env.rewards",
        ),
        (
            "cycles", "focus_agents/sft/loss.py", "import focus_agents.sft.train",
            "No cycles are allowed in focus_agents.sft",
        ),
        ("environment-alone", "focus_env/env.py", "import torch", "focus_env is not allowed to import torch"),
        ("formulas", "focus_agents/grpo/loss.py", "from ray.rllib import utils", "focus_agents.grpo.loss -> ray"),
    ],
)  # fmt: skip
def test_a_contract_notices_an_import_that_it_forbids(
    contract: str, file: str, line: str, found: str, copy: Path
) -> None:
    """Also one inside of a function."""
    with (copy / file).open("a") as module:
        module.write(f"\n\ndef late():\n{line}\n" if line.startswith(" ") else f"\n{line}\n")
    code, output = lint_imports(copy, contract)
    assert code == 1
    assert f"{CONTRACTS[contract]} BROKEN" in output
    assert found in output


def test_arrows_are_found_wherever_they_are_written() -> None:
    """In a file deep in a folder and in a function: the registry of policies imports its entries late."""
    drawn = layers.arrows("focus_agents")
    assert {"policies", "models", "rollout"} <= drawn["evaluation"] | drawn["policies"]
    assert "cli" in drawn["__main__"]
    assert drawn["errors"] == frozenset()


def test_an_implied_arrow_is_left_out() -> None:
    drawn = {"a": frozenset("bcd"), "b": frozenset("c"), "c": frozenset("d"), "d": frozenset(), "e": frozenset("d")}
    assert layers.reachable("a", drawn) == frozenset("bcd")
    assert layers.without_implied(drawn) == {
        "a": frozenset("b"), "b": frozenset("c"), "c": frozenset("d"), "d": frozenset(), "e": frozenset("d"),
    }  # fmt: skip


@pytest.mark.parametrize("package", layers.PACKAGES)
def test_no_arrow_runs_up_or_in_a_circle(package: str) -> None:
    drawn = layers.arrows(package)
    row_of = {name: number for number, row in enumerate(layers.rows(package)) for name in row}
    assert set(drawn) <= set(row_of)
    assert {(start, end) for start in drawn for end in drawn[start] if row_of[start] >= row_of[end]} == set()
    assert [name for name in drawn if name in layers.reachable(name, drawn)] == []


def test_the_page_and_its_picture_are_of_today() -> None:
    """If not: `python -m tests.layers` writes them."""
    assert (ROOT / "docs/layers.md").read_text(encoding="utf-8") == layers.page()
    assert (ROOT / "docs/layers.svg").read_text(encoding="utf-8") == layers.picture()
