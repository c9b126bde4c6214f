"""A recipe: a YAML file of commands, with their purpose and the GPUs on which they fit.

title: Table 1                  a line
about: ...                      the results, and the known differences from the source
base: qwen2-vl-7b               a name of `focus_agents.models.published.BASES`; without a base nothing is estimated
gpu: A100-80GB                  a name of `focus_agents.studies.recipes.gpus.GPUS`
picture: [1280, 720]            width and height of the pictures for the estimate
ran: no                         whether the project has run these commands: "no", or where and when
variables: {tao: /data/tao}     the value of {tao} in the commands and in other variables; `--set tao=...` changes it
                                for a call
steps:
- name: sft                     unique
  what: ...                     a line
  needs: [...]                  things that have to be there and that the step does not make, in words
  episodes: 988                 of an evaluation, if the data set has fewer than the command asks for
  run: focus sft ...            the command
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from focus_env.regular_files import open_regular
from focus_env.text_files import yaml_fault

FOLDER = Path("experiments/recipes")
"""The folder of recipes in a clone."""
NOT_RUN = "no"
"""The value of `ran` if nobody has run the commands."""
_REFERENCE = re.compile(r"\{([^{}\"':,]*)\}")
_MARK = "\ue000"  # a character that no command has
_VARIABLE = re.compile(r"[\w.-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One command of a recipe.

    Attributes:
        name: Unique in the recipe.
        run: The command as written, with variables.
        what: The purpose of the command.
        needs: Things that have to be there and that no step makes.
        episodes: Most episodes of an evaluation.
    """

    name: str
    run: str
    what: str = ""
    needs: tuple[str, ...] = ()
    episodes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A file of commands; see the module's docstring.

    Attributes:
        path: The file.
        title: A line.
        steps: The steps in their order.
        about: The results of the recipe.
        base: Base whose sizes the estimate uses; "": nothing is estimated.
        gpu: GPU on which the commands are to fit.
        picture_wh: (width, height) of the pictures of the estimate.
        ran: Where and when the commands were run, or `NOT_RUN`.
        variables: Values of the names in commands.
    """

    path: Path
    title: str
    steps: tuple[Step, ...]
    about: str = ""
    base: str = ""
    gpu: str = ""
    picture_wh: tuple[int, int] = (1280, 720)
    ran: str = NOT_RUN
    variables: Mapping[str, str] = field(default_factory=dict)

    def words(self, step: Step, variables: Mapping[str, str] | None = None) -> list[str]:
        """Return a step's command as words, `focus` the first.

        Args:
            step: One of `steps`.
            variables: Values for this call, in place of the file's.

        Raises:
            ValueError: If a variable has no value, is not one of the recipe's or refers to itself, or if the command is
                no `focus` command.
        """
        values = {**self.variables, **(variables or {})}
        if unknown := sorted(set(values) - set(self.variables)):
            raise ValueError(
                f"{self.path}: no variable {unknown[0]!r}; there are {', '.join(self.variables) or 'none'}"
            )
        where = f"{self.path}, step {step.name!r}"
        values = resolved(values, f"{self.path}")
        for name in _REFERENCE.findall(step.run):
            if name not in values:
                raise ValueError(f"{where}: expected a line for {name!r} below `variables`, got none")
        try:
            words = _split(step.run, values)
        except ValueError as error:
            raise ValueError(f"{where}: expected a command as a shell reads it, got: {error}") from error
        if words[:1] != ["focus"] or len(words) < 2:
            raise ValueError(f"{where}: expected a command that begins with focus and its name, got {step.run!r}")
        return words


def _split(command: str, values: Mapping[str, str]) -> list[str]:
    """Split a command into words, with values in place of variables; a value stays in one word, spaces included.

    Raises:
        ValueError: If quotes do not match, or if a shell would do more with the command than start it.
    """
    names = _REFERENCE.findall(command)
    # Values are filled in behind the split: their blanks and quotes are no blanks and quotes of the command.
    marked = _REFERENCE.sub(_MARK, command)
    reader = shlex.shlex(marked, posix=True, punctuation_chars=True)
    reader.whitespace_split, reader.commenters = True, ""
    for word in reader:
        if word and set(word) <= set("();<>|&"):
            raise ValueError(f"{word!r}, of a shell, which runs none of this; put it in quotes, or leave it out")
    left = iter(names)
    return [re.sub(_MARK, lambda _: values[next(left)], word) for word in shlex.split(marked)]


def find_recipe(name: str) -> Path:
    """Return the file of a recipe.

    Args:
        name: A path, or the name of a file in `experiments/recipes` of this folder or of the clone.

    Raises:
        ValueError: If there is no such file; the message lists the known names.
    """
    if (path := Path(name)).suffix in (".yaml", ".yml") and path.exists():
        return path
    for folder in folders():
        if (path := folder / f"{name}.yaml").exists():
            return path
    known = ", ".join(recipe_names()) or f"none, since there is no folder {FOLDER} here; call it in a clone"
    raise ValueError(f"recipe: expected a file that ends with .yaml, or one of {known}; got {name!r}")


def folders() -> list[Path]:
    """Return the folders in which recipes are found by name: that of the call, then that of the clone."""
    found = [FOLDER, Path(__file__).parents[3] / FOLDER]
    return [folder for folder in found if folder.is_dir()]


def recipe_names() -> list[str]:
    """Return the names of all recipes that can be found."""
    return sorted({path.stem for folder in folders() for path in folder.glob("*.yaml")})


def resolved(variables: Mapping[str, str], where: str) -> dict[str, str]:
    """Return the variables with other variables in their values replaced.

    Args:
        variables: By name; `{other}` in a value stands for the value of `other`.
        where: The file, for messages.

    Raises:
        ValueError: If a value names no variable, or itself by way of others.
    """

    def value_of(name: str, way: tuple[str, ...]) -> str:
        if name in way:
            circle = " -> ".join((*way[way.index(name) :], name))
            raise ValueError(f"{where}: variables: expected values that do not name themselves, got {circle}")
        if name not in variables:
            raise ValueError(f"{where}: variables: {way[-1]}: expected a line for {name!r} below `variables`, got none")
        return _REFERENCE.sub(lambda found: value_of(found[1], (*way, name)), variables[name])

    return {name: value_of(name, ()) for name in variables}


def load_recipe(path: Path) -> Recipe:
    """Read a recipe, and check that its base and its GPU are known.

    Raises:
        ValueError: If the file is not a recipe; the message names the place.
        OSError: If the file cannot be read.
    """
    recipe = read_recipe(path)
    check_sizes_known(recipe)
    return recipe


def check_sizes_known(recipe: Recipe) -> None:
    """Check that the sizes of a recipe's base and GPU are known.

    Raises:
        ValueError: If one is not known.
    """
    from focus_agents.models.published import BASES  # here: recipes are listed without torch
    from focus_agents.studies.recipes.gpus import GPUS

    for name, known in (("base", BASES), ("gpu", GPUS)):
        if (found := getattr(recipe, name)) and found not in known:
            raise ValueError(f"{recipe.path}: {name}: expected one of {', '.join(known)}, got {found!r}")


def read_recipe(path: Path) -> Recipe:
    """Read a recipe without torch; `load_recipe` also checks the names of base and GPU.

    Raises:
        ValueError: If the file is not such a recipe; the message names the place.
        OSError: If it cannot be read.
    """
    try:
        with open_regular(path) as file:
            found = yaml.load(file.read(), Loader=_Loader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: expected YAML, got {yaml_fault(error)}") from error
    values = _values(found, Recipe, f"{path}", required=("title", "steps"), others={"picture"})
    steps = values.pop("steps")
    if not isinstance(steps, list) or not steps:
        raise ValueError(f"{path}: steps: expected a list of commands, got {steps!r:.80}")
    parsed = tuple(_step(step, f"{path}: step {number}") for number, step in enumerate(steps, start=1))
    names = [step.name for step in parsed]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{path}: two steps are called {twice[0]!r}; give each a name of its own")
    variables = _variables(values.pop("variables", {}), f"{path}: variables")
    resolved(variables, f"{path}")
    ran = values.pop("ran", NOT_RUN)
    return Recipe(
        path=path,
        steps=parsed,
        picture_wh=_picture(values.pop("picture", ("1280", "720")), path),
        variables=variables,
        ran=NOT_RUN if ran is False else _line(ran, f"{path}: ran"),  # YAML reads `no` as a truth value
        **{name: _line(value, f"{path}: {name}") for name, value in values.items()},
    )


class _Loader(yaml.SafeLoader):
    """Numbers and dates stay as they are written, and a name that stands twice is an error."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - the library's own
        first: [(tag, rule) for tag, rule in rules if tag.rpartition(":")[2] not in ("int", "float", "timestamp")]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set[str]()
        for key, _ in node.value:
            name = str(key.value)
            if name in seen:
                raise yaml.MarkedYAMLError(problem=f"{name!r} twice; leave one out", problem_mark=key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)


def _step(found: Any, where: str) -> Step:
    values = _values(found, Step, where, required=("name", "run"), others=set())
    needs, episodes = values.pop("needs", []), values.pop("episodes", None)
    if not isinstance(needs, list):
        raise ValueError(f"{where}: needs: expected a list of sentences, got {needs!r:.80}")
    texts = {name: _line(value, f"{where}: {name}") for name, value in values.items()}
    return Step(
        needs=tuple(_line(need, f"{where}: needs") for need in needs),
        episodes=None if episodes is None else _count(episodes, f"{where}: episodes: expected a number above 0"),
        **texts,
    )


def _values(found: Any, kind: type, where: str, *, required: Sequence[str], others: set[str]) -> dict[str, Any]:
    """Return the entries of a mapping, whose names are fields of a class or `others`."""
    known = ({*kind.__dataclass_fields__} | others) - {"path", "picture_wh"}  # type: ignore[attr-defined]
    if not isinstance(found, dict):
        raise ValueError(f"{where}: expected {', '.join(required)} and their values, got {found!r:.80}")
    for name in required:
        if found.get(name) in (None, ""):
            raise ValueError(f"{where}: expected an entry {name!r}, got none")
    if odd := [name for name in found if name not in known]:
        raise ValueError(f"{where}: unknown entry {odd[0]!r}; there are {', '.join(sorted(known))}")
    return dict(found)


def _variables(found: Any, where: str) -> dict[str, str]:
    if not isinstance(found, dict):
        raise ValueError(f"{where}: expected names with their values, got {found!r:.80}")
    for name, value in found.items():
        if not isinstance(name, str) or not _VARIABLE.fullmatch(name):
            raise ValueError(f"{where}: expected names of letters, digits, '_', '-' and '.', got {name!r:.80}")
        if not isinstance(value, str) or not value:
            raise ValueError(f"{where}: {name}: expected a text, got {value!r:.80}; put it in quotes")
    return dict(found)


def _line(found: Any, where: str) -> str:
    """Return a text as one line."""
    if not isinstance(found, str):
        raise ValueError(f"{where}: expected a text, got {found!r:.80}; put it in quotes")
    return " ".join(found.split())


def _count(found: Any, expected: str) -> int:
    if (
        not isinstance(found, str)
        or not found.isascii()
        or not found.isdigit()
        or not 0 < len(found) < 10
        or not int(found)
    ):
        raise ValueError(f"{expected}, got {found!r:.80}")
    return int(found)


def _picture(found: Any, path: Path) -> tuple[int, int]:
    expected = f"{path}: picture: expected a width and a height in pixels"
    if not isinstance(found, (list, tuple)) or len(found) != 2:
        raise ValueError(f"{expected}, got {found!r:.80}")
    width, height = (_count(side, expected) for side in found)
    return width, height
