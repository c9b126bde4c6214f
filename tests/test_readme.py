"""What README, its pages and CONTRIBUTING claim and a machine can check."""

from __future__ import annotations

import importlib
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from focus_agents.cli.main import COMMANDS as PROGRAM
from focus_agents.evaluation import report as evaluation_report
from focus_agents.policies.localizers import LocalizerPolicy
from focus_agents.policies.registry import POLICIES, PolicySpec
from focus_agents.reports.tables import figure, markdown_table
from focus_agents.studies.ablation.tables import overview_table, render_report, verdict_table
from focus_agents.studies.rewards import report as rewards_report
from focus_env.datasets import DATASETS, load_dataset
from focus_env.registry import Registry
from focus_env.rewards.terms import TERMS
from focus_env.rewards.weighted import WeightedReward
from tests.packages import install_package
from tests.pages import FENCE, page, run_tyro, section
from tests.places import ROOT, load_experiment

README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "SECURITY.md",
    "experiments/LOG.md",
    "docs/annotations.md",
    "docs/answers.md",
    "docs/app.md",
    "docs/bases.md",
    "docs/coming_from.md",
    "docs/commands.md",
    "docs/dashboard.md",
    "docs/data.md",
    "docs/engines.md",
    "docs/environment.md",
    "docs/errors.md",
    "docs/evaluation.md",
    "docs/extending.md",
    "docs/finding.md",
    "docs/how_it_works.md",
    "docs/layers.md",
    "docs/notebooks.md",
    "docs/own_pictures.md",
    "docs/python.md",
    "docs/results.md",
    "docs/rewards.md",
    "docs/scaling.md",
    "docs/scenes.md",
    "docs/start.md",
    "docs/templates.md",
    "docs/training.md",
    "docs/trl.md",
    "docs/watching.md",
)
COMMANDS = (
    "README.md", "CONTRIBUTING.md", "Makefile", "docs/annotations.md", "docs/app.md", "docs/bases.md",
    "docs/data.md", "docs/evaluation.md", "docs/extending.md", "docs/finding.md", "docs/own_pictures.md",
    "docs/python.md", "docs/results.md", "docs/rewards.md", "docs/scaling.md", "docs/training.md", "docs/trl.md",
    "docs/watching.md",
)  # fmt: skip
EXPERIMENTS = sorted(path.relative_to(ROOT / "experiments").as_posix() for path in ROOT.glob("experiments/**/*.py"))

EXAMPLES = ("README.md", "docs/coming_from.md", "docs/environment.md", "docs/errors.md", "docs/extending.md")
"""Pages whose Python is run."""


def examples(name: str) -> list[tuple[str, ...]]:
    """Each Python example of a page, with the block of output that follows it if there is one."""
    blocks = FENCE.findall(page(name))
    return [
        (code, *(text for language, text in blocks[position + 1 : position + 2] if language == "text"))
        for position, (kind, code) in enumerate(blocks)
        if kind == "python"
    ]


PYTHON = {f"{name}-{number}": code for name in EXAMPLES for number, code in enumerate(examples(name))}


def package_tree() -> list[str]:
    found = FENCE.search(section("docs/how_it_works.md", "What is where"))
    assert found is not None
    return tree_paths(found[2])


def tree_paths(tree: str) -> list[str]:
    """Paths of an indented tree, whose lines hold names, two or more blanks and a remark."""
    paths: list[str] = []
    folders: list[str] = []
    for line in tree.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        names = re.split(r"\s{2,}", line.strip())[0].split()
        paths += ["".join(folders[:depth]) + name for name in names]
        folders[depth:] = [names[-1]] if names[-1].endswith("/") else []
    return paths


def commands(text: str) -> list[list[str]]:
    """Each `python experiments/...` command, split as a shell would; continued lines are joined."""
    joined = re.sub(r"\\\n\s*", "", text)
    return [shlex.split(found) for found in re.findall(r"python experiments/([^`\n]+)", joined)]


def focus_commands(text: str) -> list[list[str]]:
    """Each `focus NAME ...`, split as a shell would: in blocks of sh, indented as in a docstring, or in backticks."""
    joined = re.sub(r"\\\n\s*", "", text)
    blocks = "\n".join(code for kind, code in FENCE.findall(joined) if kind == "sh")
    found = re.findall(r"^focus ([a-z].*)", blocks, re.MULTILINE)
    found += re.findall(r"(?:^ {4}|`)focus ([a-z][^`\n]*)", joined, re.MULTILINE)
    return [shlex.split(command, comments=True) for command in found]


def load_arguments(script: str) -> type:
    """The `Args` of an experiment."""
    arguments: type = load_experiment(script.removesuffix(".py")).Args
    return arguments


def test_trees_and_commands_are_read_as_a_person_reads_them() -> None:
    tree = "a/   a folder\n  b.py c.py   two files\n  d/   in it\n    e.py   deeper\nf/   another"
    assert tree_paths(tree) == ["a/", "a/b.py", "a/c.py", "a/d/", "a/d/e.py", "f/"]
    text = "`python experiments/a.py --b 'c d'` or\n$(BIN)/python experiments/e.py --f \\\n    g\npython -m x"
    assert commands(text) == [["a.py", "--b", "c d"], ["e.py", "--f", "g"]]
    text = "```sh\nfocus a --b \\\n    c  # d\n$ focus e\n```\nfocus f\n    focus g 'h i'\n`focus j`, `focus --help`"
    assert focus_commands(text) == [["a", "--b", "c"], ["g", "h i"], ["j"]]


def test_the_two_commands_come_first() -> None:
    top = README.splitlines()[:25]
    assert [line.split("#")[0].strip() for line in top if line.startswith("make ")] == ["make train", "make test"]
    assert README.startswith("# FOCUS")


def test_readme_is_short() -> None:
    assert len(README.splitlines()) <= 200


def test_readme_leads_to_every_page() -> None:
    linked = {target.partition("#")[0] for target in re.findall(r"\]\((docs/[^)\s]+)\)", README)}
    assert {path.relative_to(ROOT).as_posix() for path in ROOT.glob("docs/*.md")} - linked == set()


def test_the_first_examples_are_short_and_that_of_the_environment_needs_nothing_else() -> None:
    for name in ("README.md", "docs/environment.md"):
        assert len(PYTHON[f"{name}-0"][0].splitlines()) <= 12
    assert "focus_agents" not in PYTHON["docs/environment.md-0"][0]


@pytest.mark.parametrize("example", PYTHON.values(), ids=PYTHON.keys())
def test_examples_print_what_their_page_shows(example: tuple[str, ...], tmp_path: Path) -> None:
    code, *shown = example
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == "".join(shown)


def test_examples_are_found() -> None:
    assert sum(len(example) == 2 for example in PYTHON.values()) >= 4


def test_everything_in_the_tree_exists() -> None:
    paths = package_tree()
    assert len(paths) > 25
    assert [path for path in paths if not (ROOT / path).exists()] == []
    assert [path for path in paths if (ROOT / path).is_dir() != path.endswith("/")] == []


@pytest.mark.parametrize("package", ["focus_env", "focus_agents"])
def test_the_tree_names_every_module_at_the_top_of_a_package(package: str) -> None:
    modules = {f"{package}/{path.name}" for path in (ROOT / package).glob("[!_]*.py")}
    assert modules - set(package_tree()) == set(), "say in docs/how_it_works.md what these hold"


def test_names_in_the_data_flow_are_in_their_files() -> None:
    text = section("docs/how_it_works.md", "How data flows")
    rows = re.findall(r"^\|[^|]*\| \[`([^`]+)`\]\(\.\./([^)]+)\) \| `(\w+)` \|$", text, re.MULTILINE)
    assert len(rows) > 8
    for shown, target, name in rows:
        assert shown == target
        assert re.search(rf"^(def|class) {name}\b", (ROOT / target).read_text(), re.MULTILINE), (target, name)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_relative_links_resolve(document: str) -> None:
    path = ROOT / document
    targets = re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8"))
    broken = [target for target in targets if "://" not in target and not resolves(path, target)]
    assert broken == []


def resolves(document: Path, link: str) -> bool:
    """Whether there is such a file, and in it the heading that a link may name behind a hash."""
    name, _, anchor = link.partition("#")
    file = document.parent / name if name else document
    if not anchor:
        return file.exists()
    headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8") if file.is_file() else "", re.MULTILINE)
    return anchor in {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_paths_in_backticks_exist(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    paths = re.findall(r"`((?:focus_env|focus_agents|experiments|benchmarks|tests|docs)/[\w./]+)`", text)
    names = {"focus_env/InContextLocalization"}
    assert [path for path in paths if path not in names and not (ROOT / path).exists()] == []


@pytest.mark.parametrize("script", EXPERIMENTS)
def test_commands_have_flags_that_the_experiment_knows(script: str) -> None:
    texts = [page(name) for name in COMMANDS]
    shown = [words[1:] for text in texts for words in commands(text) if words[0] == script]
    assert shown, f"no page shows a command with {script}"
    assert_flags_are_known(load_arguments(script), script, shown)


@pytest.mark.parametrize("name", PROGRAM)
def test_focus_commands_have_flags_that_they_know(name: str) -> None:
    """In the documents, and in the command's own help. A name alone is a mention, which needs no arguments."""
    module = importlib.import_module(PROGRAM[name].module)
    texts = [(ROOT / document).read_text() for document in {*DOCUMENTS, *COMMANDS}]
    shown = [words[1:] for text in (*texts, module.__doc__) for words in focus_commands(text) if words[0] == name]
    shown = [words for words in shown if words]
    assert_flags_are_known(module.Args, name, shown)


def test_the_table_of_commands_is_that_of_the_program() -> None:
    rows = re.findall(
        r"^\| `focus (\w+)` \| `experiments/(\w+)\.py` \| (.+) \|$", page("docs/commands.md"), re.MULTILINE
    )
    assert [(name, purpose) for name, _, purpose in rows] == [(entry.name, entry.help) for entry in PROGRAM.values()]
    for name, script, _ in rows:
        assert load_experiment(script).__name__ == PROGRAM[name].module


def test_focus_commands_exist() -> None:
    texts = [(ROOT / document).read_text() for document in {*DOCUMENTS, *COMMANDS}]
    assert {words[0] for text in texts for words in focus_commands(text)} <= set(PROGRAM)


def assert_flags_are_known(arguments: type, name: str, shown: list[list[str]]) -> None:
    """Each command is parsed, by flags that stand in the help."""
    code, help_text = run_tyro(arguments, ["--help"])
    assert code == 0
    known = set(re.findall(r"--[a-z][a-z0-9-]*", help_text))
    for words in shown:
        assert {word for word in words if word.startswith("--")} <= known, words
        code, message = run_tyro(arguments, words)
        assert code == 0, f"{name} {shlex.join(words)}\n{message}"


def test_the_ablations_tables_are_those_of_its_report() -> None:
    summary = json.loads((ROOT / "docs/ablation.json").read_text())
    assert verdict_table(summary) in page("docs/results.md")
    assert overview_table(summary) in page("docs/results.md")
    assert (ROOT / "docs/ablation.md").read_text() == render_report(summary)


def test_the_policies_table_is_that_of_its_report() -> None:
    summary = json.loads((ROOT / "docs/policies.json").read_text())
    table = markdown_table([row[:-1] for row in evaluation_report.score_rows(summary)])  # without the average
    assert table in README
    assert table in page("docs/evaluation.md")
    assert (ROOT / "docs/policies.md").read_text() == evaluation_report.render_markdown(summary)


def test_the_report_on_rewards_says_what_its_figures_say() -> None:
    summary = json.loads((ROOT / "docs/rewards_report.json").read_text())
    report = (ROOT / "docs/rewards_report.md").read_text()
    assert rewards_report.verdict(summary) in report
    assert markdown_table(rewards_report.score_rows(summary)) in report
    for name, row in summary["scores"].items():
        assert f"| {name} | {figure(row['miou'])} |" in page("docs/results.md")


def test_scores_of_the_shipped_models_are_those_of_their_cards() -> None:
    rows = re.findall(
        r"^\| `(focus-small[a-z-]*)` \| ([\d.]+) \| ([\d.]+ to [\d.]+) \|", page("docs/results.md"), re.MULTILINE
    )
    assert len(rows) >= 2
    for name, mean, interval in rows:
        card = (ROOT / "focus_agents/weights" / name / "README.md").read_text()
        assert f"| unseen identities, 4 shots | {mean} | {interval} |" in card


def test_families_are_called_as_on_their_page() -> None:
    text = page("docs/families.md")
    families = [cell.lstrip("[") for cell in re.findall(r"^\| ([^|]+) \| `", text, re.MULTILINE)[1:]]
    listed = re.search(r"Models of ten families \((.+?):", " ".join(page("docs/training.md").split()))
    assert listed is not None
    assert len(families) == 10
    for name in re.split(", | to ", listed[1]):
        assert any(family.startswith(name) for family in families), name


def test_a_package_that_follows_contributing_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("## Add them from a package of your own\n")[1]
    blocks = dict(FENCE.findall(part.split("\n## ")[0]))
    groups = tomllib.loads(blocks["toml"])["project"]["entry-points"]
    registries: dict[str, Registry[Any]] = {registry.group: registry for registry in (POLICIES, TERMS, DATASETS)}
    assert groups.keys() == registries.keys()
    for group, entries in groups.items():
        install_package(monkeypatch, tmp_path / group, group, group, entries, modules={"my_package": blocks["python"]})
        for name in entries:
            assert registries[group].find(name) is not None
            assert registries[group].load_all()[1] == []
    assert isinstance(PolicySpec(text="corner").build(), LocalizerPolicy)
    assert WeightedReward.from_spec("iou,centre:0.2").spec == "iou:1,centre:0.2"
    episodes = load_dataset("my_videos", root=tmp_path, split="val")
    assert (len(episodes), episodes[0].identity) == (1, "my mug")


def test_commands_name_experiments_that_exist() -> None:
    found = {words[0] for name in COMMANDS for words in commands(page(name))}
    assert found == set(EXPERIMENTS)
