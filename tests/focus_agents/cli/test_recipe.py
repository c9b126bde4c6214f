"""`focus recipe`: every recipe's commands are read by their own parsers and fit their GPUs by count."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from focus_agents.cli import recipe as command
from focus_agents.cli.recipe_steps import count_step, parse_step
from focus_agents.cli.sft import PRESETS
from focus_agents.evaluation.published import BETAS, MARGINS
from focus_agents.models import budget
from focus_agents.models.published import BASES
from focus_agents.studies.recipes.gpus import GPUS
from focus_agents.studies.recipes.recipe import NOT_RUN, Recipe, find_recipe, load_recipe, read_recipe, recipe_names
from tests.places import ROOT

PAPER = PRESETS["paper"]
NAMES = sorted(path.stem for path in (ROOT / "experiments/recipes").glob("*.yaml"))
ONE_STEP = (
    "title: a\nvariables: {root: /data/x y}\nsteps:\n- name: one\n  run: focus data --data-root {root} --inspect\n"
)


def recipe_of(text: str, folder: Path) -> Recipe:
    (folder / "own.yaml").write_text(text)
    return load_recipe(find_recipe(str(folder / "own.yaml")))


def test_there_are_the_recipes_of_the_documentation() -> None:
    listed = (ROOT / "docs/recipes.md").read_text()
    assert recipe_names() == NAMES
    assert all(f"| `{name}` |" in listed for name in NAMES)
    assert {"table1", "table2", "table3", "table4", "table6", "iploc", "qwen3-vl-8b", "qwen2-vl-72b"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_command_is_read_and_every_counted_one_fits(name: str) -> None:
    recipe = load_recipe(find_recipe(name))
    for step in recipe.steps:
        words = recipe.words(step)
        args = parse_step(recipe, step, words)
        count = count_step(recipe, step, words[1], args)
        if words[1] in ("sft", "grpo"):
            assert args.run.name
            assert (count is None) == (not recipe.base)
        if count is not None:
            assert count.gigabytes <= GPUS[recipe.gpu].gigabytes * (1 - budget.RESERVE), step.name
            assert count.num_gpus in (1, 8)
            assert count.hours > 0
    if recipe.base:
        assert recipe.ran == NOT_RUN


@pytest.mark.parametrize("name", NAMES)
def test_no_recipe_reads_what_is_not_written_yet(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = find_recipe(name).absolute()
    monkeypatch.chdir(tmp_path)
    assert command.plan_steps(load_recipe(path), {})


def test_later_steps_start_from_what_earlier_ones_write() -> None:
    for name in NAMES:
        recipe, written = load_recipe(find_recipe(name)), set()
        for step in recipe.steps:
            words = recipe.words(step)
            used = {word.removeprefix("vlm:") for word in words if "/checkpoints/final" in word}
            assert {Path(path).parts[1] for path in used} <= written, (name, step.name)
            args: Any = parse_step(recipe, step, words)
            if words[1] in ("sft", "grpo"):
                written.add(args.run.name)


@pytest.mark.parametrize(
    ("base", "billions"),
    [("qwen2-vl-7b", 8.29), ("qwen2-vl-72b", 73.4), ("qwen3-vl-8b", 8.77), ("llava-onevision-7b", 8.03)],
)
def test_the_sizes_of_bases_are_those_of_their_cards(base: str, billions: float) -> None:
    assert BASES[base].shape.parameters / 1e9 == pytest.approx(billions, abs=0.01 * billions)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a", "expected title, steps and their values"),
        ("title: a\nsteps: []", "steps: expected a list of commands, got []"),
        ("title: a", "expected an entry 'steps', got none"),
        ("title: a\nstep: 1\nsteps: [{name: a, run: focus data}]", "unknown entry 'step'"),
        ("title: a\nsteps: [{name: a}]", "step 1: expected an entry 'run', got none"),
        ("title: a\nsteps: [{name: a, run: x}, {name: a, run: x}]", "two steps are called 'a'"),
        ("title: a\npicture: [1]\nsteps: [{name: a, run: x}]", "picture: expected a width and a height"),
        ("title: [", "expected YAML, got a fault in line 1, column 9: expected the node content"),
        (
            "title: a\ntitle: b\nsteps: [{name: a, run: x}]",
            "expected YAML, got a fault in line 2, column 1: 'title' twice; leave one out",
        ),
        ("title: a\nsteps: [{name: a, run: x, run: y}]", "expected YAML, got a fault in .*: 'run' twice"),
        ("title: a\nvariables: {b: c, b: d}\nsteps: [{name: a, run: x}]", "got a fault in .*: 'b' twice"),
        ("title: a\nsteps: {name: a}", "steps: expected a list of commands, got {'name'"),
        ("title: a\nsteps: [a]", "step 1: expected name, run and their values, got 'a'"),
        ("title: a\nsteps: [null]", "step 1: expected name, run and their values, got None"),
        ("title: a\nsteps: [{name: a, run: [x]}]", r"step 1: run: expected a text, got \['x']; put it in quotes"),
        ("title: a\nsteps: [{name: yes, run: x}]", "step 1: name: expected a text, got True"),
        ("title: a\nsteps: [{name: a, run: x, needs: b}]", "step 1: needs: expected a list of sentences, got 'b'"),
        ("title: a\nsteps: [{name: a, run: x, needs: [[b]]}]", "step 1: needs: expected a text"),
        ("title: a\nsteps: [{name: a, run: x, episodes: 0}]", "episodes: expected a number above 0, got '0'"),
        ("title: a\nsteps: [{name: a, run: x, episodes: many}]", "episodes: expected a number above 0, got 'many'"),
        ("title: a\nsteps: [{name: a, run: x, step: 2}]", "step 1: unknown entry 'step'"),
        ("title: a\npicture: [1280, 0]\nsteps: [{name: a, run: x}]", "picture: expected a width and a height"),
        ("title: a\npicture: 1280x720\nsteps: [{name: a, run: x}]", "picture: expected a width and a height"),
        ("title: a\ngpu: Banana\nsteps: [{name: a, run: x}]", "gpu: expected one of A100-80GB, .*, got 'Banana'"),
        ("title: a\ngpu: [A100-80GB]\nsteps: [{name: a, run: x}]", "gpu: expected a text"),
        ("title: a\ngpu: null\nsteps: [{name: a, run: x}]", "gpu: expected a text, got None"),
        ("title: a\nbase: gpt\nsteps: [{name: a, run: x}]", "base: expected one of qwen2-vl-7b, .*, got 'gpt'"),
        ("title: a\nran: yes\nsteps: [{name: a, run: x}]", "ran: expected a text, got True"),
        ("title: a\nvariables: [b]\nsteps: [{name: a, run: x}]", "variables: expected names with their values"),
        ("title: a\nvariables: {b: [c]}\nsteps: [{name: a, run: x}]", "variables: b: expected a text"),
        ("title: a\nvariables: {b: no}\nsteps: [{name: a, run: x}]", "variables: b: expected a text, got False; put"),
        ("title: a\nvariables: {b c: d}\nsteps: [{name: a, run: x}]", "variables: expected names of letters"),
        (
            'title: a\nvariables: {b: "{c}", c: "{d}/x", d: "{b}"}\nsteps: [{name: a, run: x}]',
            "variables: expected values that do not name themselves, got b -> c -> d -> b",
        ),
        ('title: a\nvariables: {b: "{b}/x"}\nsteps: [{name: a, run: x}]', "do not name themselves, got b -> b"),
        ('title: a\nvariables: {b: "{c}"}\nsteps: [{name: a, run: x}]', "variables: b: expected a line for 'c' below"),
    ],
)
def test_a_file_that_is_no_recipe(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message if "\\[" in message else message.replace("[", r"\[")) as error:
        recipe_of(text, tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ("rm -rf x", "expected a command that begins with focus"),
        ("focus data --data-root {other}", "expected a line for 'other' below `variables`"),
        ("focus data 'x", "expected a command as a shell reads it"),
        ("focus demo", "expected one of the commands sft, grpo, evaluate"),
        ("focus sft --no-such-flag 1", "focus sft does not read this command: .*no-such-flag"),
        ("focus sft --num-steps 0", "num_steps: expected 1 or more"),
        ("focus data --data-root {my-root}", "expected a line for 'my-root' below `variables`"),
        ("focus data --data-root {}", "expected a line for '' below `variables`"),
    ],
)
def test_a_command_that_cannot_be_read_is_named_by_its_step(run: str, message: str, tmp_path: Path) -> None:
    recipe = recipe_of(f'title: a\nsteps:\n- name: one\n  run: "{run}"\n', tmp_path)
    with pytest.raises(ValueError, match=f"step 'one'.*{message}"):
        command.plan_steps(recipe, {})


def test_variables_keep_their_blanks(tmp_path: Path) -> None:
    recipe = recipe_of(ONE_STEP, tmp_path)
    assert recipe.words(recipe.steps[0])[3] == "/data/x y"
    assert recipe.words(recipe.steps[0], {"root": "/b c"})[3] == "/b c"
    with pytest.raises(ValueError, match="no variable 'roots'; there are root"):
        recipe.words(recipe.steps[0], {"roots": "/b"})


def test_variables_may_stand_in_each_other(tmp_path: Path) -> None:
    text = 'title: a\nvariables: {data-1: "/data 1", tao: "{data-1}/tao", x: 010}\nsteps:\n- name: one\n'
    recipe = recipe_of(text + "  run: focus data --data-root {tao}/{x} --split {data-1}\n", tmp_path)
    assert recipe.words(recipe.steps[0])[3:] == ["/data 1/tao/010", "--split", "/data 1"]
    assert recipe.words(recipe.steps[0], {"data-1": "b"})[3] == "b/tao/010"
    with pytest.raises(ValueError, match=r"do not name themselves, got tao -> data-1 -> tao|data-1 -> tao -> data-1"):
        recipe.words(recipe.steps[0], {"data-1": "{tao}"})
    with pytest.raises(ValueError, match="set: expected one value for 'tao', got two"):
        command.variables_of(("tao=a", "tao=b"))


@pytest.mark.parametrize("value", ["a b; c", "it's", 'say "x"', "a\\b", "{x: 1}", "$HOME > y", " # "])
@pytest.mark.parametrize("quoted", ['"{p}/x"', "'{p}/x'", "{p}/x", '{p}"/x"', "\\\\{p}/x"])
def test_a_variable_is_part_of_its_word_whatever_quotes_there_are(value: str, quoted: str, tmp_path: Path) -> None:
    recipe = recipe_of("title: a\nvariables: {p: q}\nsteps:\n- {name: one, run: focus data}\n", tmp_path)
    step = dataclasses.replace(recipe.steps[0], run=f"focus data --data-root {quoted} {{p}}")
    start = "\\" if quoted.startswith("\\") else ""
    assert recipe.words(step, {"p": value})[2:] == ["--data-root", f"{start}{value}/x", value]


@pytest.mark.parametrize("shell", ["> file", ">file", "2>&1", "| tee x", "&& rm x", "; ls", "&", "< x", "$(ls)"])
def test_what_a_shell_would_do_is_no_part_of_a_command(shell: str, tmp_path: Path) -> None:
    recipe = recipe_of(ONE_STEP, tmp_path)
    step = dataclasses.replace(recipe.steps[0], run=f"focus evaluate --policy center {shell}")
    with pytest.raises(ValueError, match=r"step 'one': expected a command as a shell reads it, got: .*, of a shell"):
        recipe.words(step)
    quoted = dataclasses.replace(step, run="focus evaluate --policy 'a;b' \"c > d\"")
    assert recipe.words(quoted)[3:] == ["a;b", "c > d"]


FINAL = "runs/{}/checkpoints/final"


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        (["sft --name x", "sft --name x"], "step 's1': expected a `name` of its own, got .*x, where step 's0' writes"),
        (["sft --name x", "grpo --name x"], "step 's1': expected a `name` of its own"),
        (
            [f"sft --name y --init-from {FINAL.format('x')}", "sft --name x"],
            "step 's0': expected the output of an earlier step, got runs/x/checkpoints/final, which step 's1' is going",
        ),
        ([f"sft --name x --init-from ./{FINAL.format('x')}"], "step 's0': expected the output of an earlier step"),
        ([f"evaluate --policy vlm:{FINAL.format('x')}", "grpo --name x"], "step 's0': expected the output of an"),
    ],
)
def test_steps_that_write_one_folder_or_read_what_is_not_there_yet(
    runs: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    steps = "".join(f"- name: s{n}\n  run: focus {run}\n" for n, run in enumerate(runs))
    recipe = recipe_of(f"title: a\nsteps:\n{steps}", tmp_path)
    with pytest.raises(ValueError, match=message):
        command.plan_steps(recipe, {})


@pytest.mark.parametrize("base", ["", "base: qwen2-vl-7b\ngpu: A100-80GB\n"])
def test_a_gpu_that_is_not_known(base: str, tmp_path: Path) -> None:
    recipe = recipe_of(base + ONE_STEP, tmp_path)
    with pytest.raises(ValueError, match=r"gpu: expected one of A100-80GB, .*, got 'Banana'"):
        command.plan_steps(recipe, {}, gpu="Banana")


def test_a_number_of_episodes_is_for_evaluations(tmp_path: Path) -> None:
    recipe = recipe_of(ONE_STEP + "  episodes: 3\n", tmp_path)
    with pytest.raises(ValueError, match="step 'one': episodes: expected a step of focus evaluate, got focus data"):
        command.plan_steps(recipe, {})


def test_the_grid_of_table_6_is_the_papers() -> None:
    recipe = read_recipe(find_recipe("table6"))
    asked = list[tuple[float, float]]()
    for words in map(recipe.words, recipe.steps):
        if words[1] == "sft":
            margin = words[words.index("--margin") + 1] if "--margin" in words else PAPER.loss.margin
            asked.append((float(margin), float(words[words.index("--beta") + 1])))
    assert sorted(asked) == sorted([(0.025, 0.0), *((margin, beta) for margin in MARGINS for beta in BETAS)])


def run_own(
    monkeypatch: pytest.MonkeyPatch, folder: Path, codes: list[int], *flags: str
) -> tuple[int, list[list[str]]]:
    """The exit code of the command on three steps that end with these codes, and what was started."""
    steps = "".join(f"- name: s{n}\n  run: focus sft --name {folder.name}-{n}\n" for n in range(3))
    (folder / "own.yaml").write_text(f"title: a\nsteps:\n{steps}")
    started: list[list[str]] = []

    def fake(words: list[str]) -> SimpleNamespace:
        started.append(words[2:])
        return SimpleNamespace(returncode=codes[len(started) - 1])

    monkeypatch.setattr(subprocess, "run", fake)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["focus recipe", "own.yaml", *flags])
    try:
        command.main()
    except SystemExit as stop:
        return int(stop.code or 0), started
    return 0, started


def test_the_first_failure_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, started = run_own(monkeypatch, tmp_path, [0, 3])
    assert (code, len(started)) == (3, 2)
    told = capsys.readouterr().out
    assert "[2/3] s1: ended with code 3 after" in told
    assert "the steps behind it were not run" in told


def test_a_dry_run_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_own(monkeypatch, tmp_path, [], "--dry-run") == (0, [])
    told = capsys.readouterr().out
    assert told.rstrip().endswith("nothing was run")
    assert "commands: not run by the project" in told


def test_trainings_that_are_done_or_were_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done, stopped = (tmp_path / "runs" / f"{tmp_path.name}-{n}" for n in range(2))
    done.mkdir(parents=True)
    stopped.mkdir()
    (done / "summary.json").write_text("{}")
    code, started = run_own(monkeypatch, tmp_path, [0, 0])
    assert code == 0
    assert [words[:3] for words in started] == [
        ["focus_agents", "sft", "--resume"],
        ["focus_agents", "sft", "--name"],
    ]
