"""Workflows, issue templates and the Dockerfile: they name what there is, and ask for no more rights than they need."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.places import ROOT

WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def read(path: Path) -> Any:
    """The file's values as texts, since YAML takes `on` for true."""
    return yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)


def commands(path: Path) -> str:
    jobs = read(path)["jobs"].values()
    return "\n".join(step["run"] for job in jobs for step in job["steps"] if "run" in step)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_make_targets_that_exist(path: Path) -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(re.findall(r"make (\w+)", commands(path))) <= targets


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_may_only_read_unless_a_job_publishes(path: Path) -> None:
    workflow = read(path)
    assert workflow["permissions"] == {"contents": "read"}
    writing = {name for name, job in workflow["jobs"].items() if "write" in job.get("permissions", {}).values()}
    assert writing <= {"deploy", "publish"}
    assert all("environment" in workflow["jobs"][name] for name in writing)


def test_the_tests_run_as_in_readme() -> None:
    assert "taskset --cpu-list 0,1 make test" in commands(ROOT / ".github/workflows/test.yml")


def test_a_tag_alone_publishes_and_no_token_is_stored() -> None:
    path = ROOT / ".github/workflows/publish.yml"
    assert read(path)["on"] == {"push": {"tags": ["v*"]}}
    assert "secrets." not in path.read_text(encoding="utf-8")
    assert f"dist/{PROJECT['name'].replace('-', '_')}-" in commands(path)


def test_a_bug_report_asks_for_what_the_doctor_says() -> None:
    fields = {field.get("id"): field for field in read(ROOT / ".github/ISSUE_TEMPLATE/bug.yml")["body"]}
    assert "focus doctor" in fields["doctor"]["attributes"]["label"]
    assert fields["doctor"]["validations"]["required"] == "true"


def test_images_install_extras_that_exist() -> None:
    wanted = {extra for group in re.findall(r"whl\)\[([\w,]+)\]", DOCKERFILE) for extra in group.split(",")}
    assert "train" in wanted
    assert wanted <= PROJECT["optional-dependencies"].keys()


def test_images_copy_what_the_wheel_is_made_of() -> None:
    copied = {name for names in re.findall(r"^COPY ([\w. ]+) \S+$", DOCKERFILE, re.MULTILINE) for name in names.split()}
    assert copied == {"pyproject.toml", "README.md", "LICENSE", "focus_env", "focus_agents"}
    admitted = set(re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(encoding="utf-8"), re.MULTILINE))
    assert admitted == copied


def test_images_run_as_no_root() -> None:
    stages = re.split(r"^FROM ", DOCKERFILE, flags=re.MULTILINE)[1:]
    final = [stage for stage in stages if re.search(r" AS (cpu|cuda)$", stage.splitlines()[0])]
    assert len(final) == 2
    assert all(stage.rstrip().endswith("USER focus") for stage in final)
