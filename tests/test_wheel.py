"""The wheel, installed into environments of its own: one with all dependencies, one with the base ones alone."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import focus_env
from focus_agents.cli.main import COMMANDS
from focus_agents.models.loading import SHIPPED_MODELS
from tests.places import ROOT

pytestmark = pytest.mark.e2e

PACKAGES = ("focus_agents", "focus_env")
DATA = {
    "focus_agents/py.typed",
    "focus_env/py.typed",
    "focus_env/datasets/readers/lasot_categories.json",
    "focus_agents/models/small_assets/tokenizer.json",
    "focus_agents/models/small_assets/chat_template.jinja",
    "focus_agents/models/tiny_assets/tokenizer.json",
    "focus_agents/models/tiny_assets/chat_template.jinja",
    *(f"focus_agents/weights/{name}/model.safetensors" for name in SHIPPED_MODELS),
    *(f"focus_agents/weights/{name}/chat_template.jinja" for name in SHIPPED_MODELS),
    *(f"focus_agents/weights/{name}/README.md" for name in SHIPPED_MODELS),
}
ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")} | {
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "PYTHONNOUSERSITE": "1",
}


def run(*words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in words],
        cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def checked(*words: str | Path, cwd: Path) -> str:
    """What a command prints that must succeed."""
    result = run(*words, cwd=cwd)
    assert result.returncode == 0, f"{result.stdout}\n{result.stderr}"
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    build = ("wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", folder, ROOT)
    checked(sys.executable, "-m", "pip", *build, cwd=folder)
    (file,) = folder.glob("*.whl")
    return file


def install(wheel: Path, folder: Path, dependencies: Path) -> Path:
    """A new environment with the wheel, and dependencies by a .pth file; returns its folder of scripts.

    A .pth file in a folder that a .pth file names is not read, so this project's editable installation is not seen.
    """
    checked(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
    python = folder / "bin/python"
    checked(
        sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=folder.parent
    )
    (site_packages,) = folder.glob("lib/python*/site-packages")
    (site_packages / "dependencies.pth").write_text(f"{dependencies}\n")
    for package in PACKAGES:
        file = checked(python, "-c", f"import {package}; print({package}.__file__)", cwd=folder.parent).strip()
        assert Path(file).is_relative_to(site_packages)
    return folder / "bin"


@pytest.fixture(scope="module")
def complete(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scripts of an environment with all dependencies."""
    return install(wheel, tmp_path_factory.mktemp("complete") / "venv", Path(sysconfig.get_paths()["purelib"]))


@pytest.fixture(scope="module")
def base(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scripts of an environment with the base dependencies alone."""
    folder = tmp_path_factory.mktemp("base")
    dependencies = folder / "dependencies"
    dependencies.mkdir()
    for name in base_distributions():
        for part in {file.parts[0] for file in metadata.distribution(name).files or ()} - {"..", "__pycache__"}:
            (dependencies / part).symlink_to(Path(str(metadata.distribution(name).locate_file(part))))
    return install(wheel, folder / "venv", dependencies)


def base_distributions() -> set[str]:
    """What `pip install` brings without extras, and what that needs itself."""
    found: set[str] = set()
    waiting = ["focus-localization"]
    while waiting:
        for line in metadata.requires(waiting.pop()) or ():
            requirement = Requirement(line)
            is_needed = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
            if is_needed and requirement.name not in found:
                found.add(requirement.name)
                waiting.append(requirement.name)
    return found


def test_the_wheel_holds_the_packages_and_nothing_else(wheel: Path) -> None:
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    there = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert held == there
    assert held >= DATA
    assert not [name for name in held if "test" in Path(name).name]


def test_training_and_evaluation_from_an_empty_folder(complete: Path, tmp_path: Path) -> None:
    focus = complete / "focus"
    assert checked(focus, "--version", cwd=tmp_path) == f"focus {focus_env.__version__}\n"
    listed = re.findall(r"^  ([a-z]+)  ", checked(focus, "--help", cwd=tmp_path), re.MULTILINE)
    assert listed == list(COMMANDS)

    shown = checked(
        focus, "grpo", "--name", "two", "--num-iterations", "2", "--groups-per-iteration", "4", "--group-size", "4",
        "--shots", "1", "--num-validation-episodes", "8", "--no-dashboard", cwd=tmp_path,
    )  # fmt: skip
    policy = Path("runs/two/checkpoints/final")
    assert f"policy: {policy}" in shown
    assert len((tmp_path / "runs/two/metrics.jsonl").read_text().splitlines()) == 3
    assert (tmp_path / policy / "model.safetensors").is_file()

    shown = checked(
        focus, "evaluate", "--policy", f"vlm:{policy}", "--num-episodes", "16", "--shots", "1", "--output-dir", "table",
        cwd=tmp_path,
    )  # fmt: skip
    assert "report: table/report.md" in shown
    (cell,) = json.loads((tmp_path / "table/summary.json").read_text())["cells"]
    assert cell["num_episodes"] == 16
    assert 0.3 < cell["metrics"]["miou_all"]["mean"] < 1
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "table"}


def test_the_base_dependencies_are_enough_for_the_environment(base: Path, tmp_path: Path) -> None:
    code = (
        "import gymnasium, focus_env, focus_agents\n"
        "env = gymnasium.make(focus_env.ENV_ID, dataset_options={'split': 'val', 'level': 2, 'shots': 2})\n"
        "env.reset(options={'episode_index': 0})\n"
        "print(round(env.step('<answer>[400, 50, 800, 400]</answer>')[1], 2))\n"
    )
    assert checked(base / "python", "-c", code, cwd=tmp_path) == "1.36\n"
    for module in ("torch", "ray", "tyro", "rich"):
        assert run(base / "python", "-c", f"import {module}", cwd=tmp_path).returncode == 1


def test_a_command_without_its_packages_says_what_to_install(base: Path, tmp_path: Path) -> None:
    listed = re.findall(r"^  ([a-z]+)  ", checked(base / "focus", "--help", cwd=tmp_path), re.MULTILINE)
    assert listed == list(COMMANDS)
    for name in COMMANDS:
        result = run(base / "focus", name, "--help", cwd=tmp_path)
        assert result.returncode == 1
        assert result.stdout == ""
        message = (
            rf"error: focus {name} needs the package \w+, which is not installed; "
            r"run: pip install 'focus-localization\[train\]'\n"
        )
        assert re.fullmatch(message, result.stderr), result.stderr
