r"""Run or show recipes: files of commands that make a table, one after the other, with their cost.

How to run (list all recipes; show the commands of one, and the GPUs on which they fit):
    focus recipe
    focus recipe table1 --dry-run

Run all steps, with the folders of data; after a stop, repeat the same command to continue:
    focus recipe table1 --set tao=/data/tao got10k=/data/got10k lasot=/data/lasot

Run one step, or show a file of your own:
    focus recipe table1 --only sft
    focus recipe my-recipe.yaml --dry-run

GPUs, memory and hours are computed from the settings and from data sheets, not measured. A failed step ends the recipe
with its exit code. A finished training is skipped, a stopped training is resumed, and evaluations answer the missing
episodes.
"""

from __future__ import annotations

import dataclasses
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from focus_agents.cli.command_line import parse
from focus_agents.cli.errors import make_console, user_errors
from focus_agents.settings import Settings
from focus_agents.studies.recipes.recipe import (
    NOT_RUN,
    Recipe,
    Step,
    check_sizes_known,
    find_recipe,
    load_recipe,
    read_recipe,
    recipe_names,
)

if TYPE_CHECKING:  # a command line is read without torch
    from rich.console import Console

    from focus_agents.cli.recipe_steps import Count


@dataclass(frozen=True, kw_only=True)
class Args(Settings):
    """Run the commands of a recipe, or show them."""

    recipe: tyro.conf.Positional[str] = ""
    """Name of a file in experiments/recipes, or a file; without it, list all recipes."""
    dry_run: bool = False
    """Show the commands and their cost, and run nothing."""
    set: tuple[str, ...] = ()
    """Values of the recipe's variables, as in tao=/data/tao."""
    only: tuple[str, ...] = ()
    """Names of steps; the others are left out."""
    gpu: Annotated[str, tyro.conf.arg(help="GPU for the count; default: the recipe's.")] = ""


@dataclass(frozen=True, slots=True)
class Planned:
    """A step that can run: the command's own parser has read it.

    Attributes:
        step: The step.
        words: Its command.
        state: "new", "done" or "stopped".
        folder: Folder of a training.
        count: Cost of the step, if known.
    """

    step: Step
    words: list[str]
    state: str
    folder: Path | None
    count: Count | None

    @property
    def command(self) -> str:
        """The command as it can be pasted into a shell; of a training that was stopped, the one that goes on."""
        words = [*self.words[:2], "--resume", str(self.folder)] if self.state == "stopped" else self.words
        return shlex.join(words)


def main() -> None:
    console = make_console(arguments=Args)
    with user_errors(Args):
        args = parse(Args, __doc__)
        if not args.recipe:
            list_recipes(console)
            return
        recipe = load_recipe(find_recipe(args.recipe))
        steps = plan_steps(recipe, variables_of(args.set), only=args.only, gpu=args.gpu)
    show(recipe, steps, console)
    if args.dry_run:
        console.print("nothing was run")
    else:
        run(steps, console)


def list_recipes(console: Console) -> None:
    """Print the recipes that there are.

    Raises:
        ValueError: If there are none here.
    """
    names = recipe_names()
    if not names:
        find_recipe("")
    for name in names:
        recipe = read_recipe(find_recipe(name))
        console.print(
            f"{name:{max(map(len, names))}}  {recipe.title} ({len(recipe.steps)} steps, {ran_in_words(recipe)})"
        )


def ran_in_words(recipe: Recipe) -> str:
    """Return whether somebody has run a recipe's commands."""
    return "not run by the project" if recipe.ran == NOT_RUN else f"run: {recipe.ran}"


def variables_of(texts: tuple[str, ...]) -> dict[str, str]:
    """Read values of variables.

    Raises:
        ValueError: If one is not written as name=value.
    """
    variables = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise ValueError(f"set: expected name=value, as in tao=/data/tao, got {text!r}")
        if name in variables:
            raise ValueError(f"set: expected one value for {name!r}, got two; leave one out")
        variables[name] = value
    return variables


def plan_steps(
    recipe: Recipe, variables: Mapping[str, str], *, only: tuple[str, ...] = (), gpu: str = ""
) -> list[Planned]:
    """Read and count the steps of a recipe, so that nothing starts before all of them can.

    Args:
        recipe: The recipe.
        variables: Values of its variables in this call.
        only: Names of steps; (): all.
        gpu: In place of the recipe's.

    Raises:
        ValueError: If a step's command cannot be read, a name is none of a step, two steps write one folder, or a step
            reads what a later one writes.
    """
    from focus_agents.cli.recipe_steps import check_order, count_step, parse_step, run_folder

    names = [step.name for step in recipe.steps]
    if odd := [name for name in only if name not in names]:
        raise ValueError(f"only: expected names of steps, {', '.join(names)}; got {odd[0]!r}")
    recipe = dataclasses.replace(recipe, gpu=gpu or recipe.gpu)
    check_sizes_known(recipe)
    planned, written = [], list[tuple[Step, list[str], Path | None]]()
    for step in recipe.steps:
        words = recipe.words(step, variables)
        args = parse_step(recipe, step, words)
        folder = run_folder(args, words[1])
        written.append((step, words, folder))
        if not only or step.name in only:
            planned.append(Planned(step, words, _state(folder), folder, count_step(recipe, step, words[1], args)))
    check_order(recipe, written)
    return planned


def _state(folder: Path | None) -> str:
    if folder is None or not folder.exists():
        return "new"
    return "done" if (folder / "summary.json").exists() else "stopped"


def show(recipe: Recipe, steps: list[Planned], console: Console) -> None:
    """Print a recipe: what it is, its steps, and what they take."""
    console.print(f"{recipe.path}: {recipe.title}")
    if recipe.about:
        console.print(" ".join(recipe.about.split()))
    console.print(f"commands: {ran_in_words(recipe)}")
    total = 0.0
    for number, planned in enumerate(steps, start=1):
        step = planned.step
        what = f": {step.what}" if step.what else ""
        done = {"done": " (done, passed over)", "stopped": " (was stopped, goes on)"}.get(planned.state, "")
        console.print(f"\n[{number}/{len(steps)}] {step.name}{what}{done}")
        for need in step.needs:
            console.print(f"  needs: {need}")
        console.print(f"  {planned.command}")
        if planned.count is not None:
            console.print(f"  {count_in_words(planned.count, recipe)}")
            total += planned.count.num_gpus * planned.count.hours
    if total:
        gpu_hours = f"{total:,.0f}" if total >= 10 else f"{total:.1f}"
        console.print(
            f"\nin all, by count: {gpu_hours} GPU hours of {recipe.gpu}; loading, data and waiting come on top"
        )


def count_in_words(count: Count, recipe: Recipe) -> str:
    """Return what a step takes, and whether it fits."""
    from focus_agents.models import budget
    from focus_agents.studies.recipes.gpus import GPUS

    usable = GPUS[recipe.gpu].gigabytes * (1 - budget.RESERVE)
    fits = "fits" if count.gigabytes <= usable else f"does NOT fit into {usable:.0f} GB"
    hours = f"{count.hours:.1f} h" if count.hours >= 0.1 else f"{count.hours * 60:.0f} min"
    rest = f"; not counted: {', '.join(count.rest)}" if count.rest else ""
    return (
        f"by count: {count.num_gpus:g} x {recipe.gpu}, {count.gigabytes:.1f} GB on the fullest ({fits}), {hours}{rest}"
    )


def run(steps: list[Planned], console: Console) -> None:
    """Run steps one after the other.

    Raises:
        SystemExit: With the exit code of the first step that fails.
    """
    started = time.perf_counter()
    for number, planned in enumerate(steps, start=1):
        name = f"[{number}/{len(steps)}] {planned.step.name}"
        if planned.state == "done":
            console.print(f"{name}: done before, in {planned.folder}")
            continue
        console.print(f"{name}: {planned.command}")
        code = subprocess.run([sys.executable, "-m", "focus_agents", *shlex.split(planned.command)[1:]]).returncode
        minutes = (time.perf_counter() - started) / 60
        if code:
            console.print(f"{name}: ended with code {code} after {minutes:.1f} min; the steps behind it were not run")
            raise SystemExit(code if code > 0 else 128 - code)
        console.print(f"{name}: done, {minutes:.1f} min since the start")


if __name__ == "__main__":
    main()
