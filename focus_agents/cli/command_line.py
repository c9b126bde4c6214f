"""A command line as nested records: reading one, writing its values down, taking them up again."""

from __future__ import annotations

import dataclasses
import logging
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import tyro

from focus_agents.cli.errors import flag_names
from focus_agents.cli.help_text import flowing_help
from focus_agents.cli.paths import check_paths, expand_paths
from focus_agents.settings import Settings, as_dict, deferred_checks
from focus_env.plain_numbers import is_plain

CONFIG = (tyro.conf.OmitArgPrefixes, tyro.conf.EnumChoicesFromValues)
"""A group's flags are without its name; units of coordinates go by their values."""

A = TypeVar("A", bound=Settings)


class Repeated:
    """Among the kinds of a setting's values: the flag may be given several times, each time with one of them."""


def parse(
    arguments: type[A],
    description: str | None,
    *,
    default: A | None = None,
    words: Sequence[str] | None = None,
    old_flags: Mapping[str, str | None] = MappingProxyType({}),
) -> A:
    """Read a command line.

    Args:
        arguments: A dataclass; a field that is a dataclass itself is a box of the help, and its fields are flags.
        description: Opens the help.
        default: Defaults of all flags; None: those of the class.
        words: The command line; None: this process's.
        old_flags: Spellings of the last release with those of today; None: the flag, which takes a value, had no effect
            and is gone. They go on working with a warning.

    Raises:
        SystemExit: If a flag is unknown or a value cannot be read (exit code 2), or after the help (0).
        ValueError: If a value is out of its range, or nothing can lie at a path.
    """
    words = _renew(sys.argv[1:] if words is None else words, old_flags)
    options: dict[str, Any] = {} if default is None else {"default": default}
    check_words(words, arguments)
    # Inside, tyro would show a value that is out of its range in a way of its own.
    with deferred_checks(), flowing_help(description):
        args = tyro.cli(
            arguments,
            description=description,
            args=words,
            config=CONFIG,
            **options,
        )
        args = expand_paths(args)
    args.check()
    check_paths(args)
    given = given_flags(words, arguments)
    for part in (args, *as_dict(args).values()):
        if isinstance(part, Settings) and hasattr(part, "check_given"):
            part.check_given(frozenset(given))
    return args


def check_words(words: Sequence[str], arguments: type) -> None:
    """Refuse values that the parser reads otherwise than people do.

    Args:
        words: The command line.
        arguments: The command's dataclass.

    Raises:
        ValueError: If a value is `1_0` or has digits of another script, which Python reads as numbers; or is empty, as
            of a variable of the shell that is not set: an empty path is the working folder.
    """
    kinds, settings = _kinds(arguments), _settings_by_flag(arguments)
    name = ""
    for word in words:
        value = word
        if word.startswith("--"):
            flag, equals, value = word[2:].partition("=")
            name = settings.get(flag.replace("-", "_"), "")
            if not equals:
                continue
        if name in kinds and not value:
            raise ValueError(f"{name}: expected a value, got an empty one; leave the flag out, or set the variable")
        if kinds.get(name, set()) & {int, float} and not is_plain(value) and _is_number(value):
            raise ValueError(f"{name}: expected a number in plain digits, got {value!r}")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _kinds(arguments: Any) -> dict[str, set[Any]]:
    """Return by setting the types that its values may have, also tuples of them and `Repeated`; in its groups too."""
    found: dict[str, set[Any]] = {}
    for name, hint in get_type_hints(arguments, include_extras=True).items():
        extras = getattr(hint, "__metadata__", ())
        plain = get_args(hint)[0] if extras else hint
        if dataclasses.is_dataclass(plain):
            found |= _kinds(plain)
            continue
        kinds, rest = {plain}, [plain]
        while rest:
            kinds |= {tuple for kind in rest if get_origin(kind) is tuple}
            rest = [argument for kind in rest for argument in get_args(kind)]
            kinds |= {kind for kind in rest if isinstance(kind, type)}
        found[name] = kinds | ({Repeated} if tyro.conf.UseAppendAction in extras else set())
    return found


def _settings_by_flag(arguments: type) -> dict[str, str]:
    """Return settings by the names of their flags; a truth value also stands under its flag with `no_` before it."""
    flags = {name: flag for name, flag in flag_names(arguments).items() if flag}
    kinds = _kinds(arguments)
    denied = {f"no_{flag}": name for name, flag in flags.items() if bool in kinds.get(name, ())}
    return denied | {flag: name for name, flag in flags.items()}


def given_flags(words: Sequence[str], arguments: type) -> list[str]:
    """Return the names of the settings that a command line names, in its order.

    Args:
        words: The command line.
        arguments: The command's dataclass, whose settings may be named.

    Raises:
        ValueError: If one is named twice that is not meant to be: the first value would be lost. Where `arguments` says
            `last_wins`, that is meant.
    """
    settings = _settings_by_flag(arguments)
    flags = [word[2:].partition("=")[0].replace("-", "_") for word in words if word.startswith("--")]
    given = [settings[flag] for flag in flags if flag in settings]
    if not getattr(arguments, "last_wins", False):
        kinds = _kinds(arguments)
        for name in given:
            if given.count(name) > 1 and Repeated not in kinds[name]:
                whole = ", with all of its values behind it" if tuple in kinds[name] else ""
                raise ValueError(f"{name}: expected once{whole}, got it {given.count(name)} times; leave one out")
    return given


def _renew(words: Sequence[str], old_flags: Mapping[str, str | None]) -> list[str]:
    """Return the command line in today's spelling."""
    renewed: list[str] = []
    rest = iter(words)
    for word in rest:
        flag, equals, value = word.partition("=")
        flag = flag.replace("_", "-") if flag.startswith("--") else flag
        if flag not in old_flags:
            renewed.append(word)
            continue
        new = old_flags[flag]
        print(f"warning: {flag} {'has no effect' if new is None else f'is now {new}'}", file=sys.stderr)
        if new is not None:
            renewed.append(f"{new}{equals}{value}")
        elif not equals:
            next(rest, None)
    return renewed


def flat(args: Any) -> dict[str, Any]:
    """Return all arguments by name, those of nested groups too, as a run's config.json holds them."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(args):
        value = getattr(args, field.name)
        values |= flat(value) if dataclasses.is_dataclass(value) else {field.name: value}
    return values


def restore_arguments(args: A, stored: Mapping[str, Any], *, keep: Sequence[str]) -> A:
    """Return the arguments of an interrupted run.

    Args:
        args: Those of this call, a dataclass with groups.
        stored: Those of the interrupted run, by name, as JSON gives them back.
        keep: Names of arguments, or of groups, that are this call's.
    """
    changes: dict[str, Any] = {}
    hints = get_type_hints(type(args))
    for field in dataclasses.fields(args):  # type: ignore[arg-type]
        value = getattr(args, field.name)
        if field.name in keep:
            continue
        if isinstance(value, Settings):
            changes[field.name] = restore_arguments(value, stored, keep=keep)
        elif field.name in stored:
            changes[field.name] = _from_json(stored[field.name], hints[field.name])
    return dataclasses.replace(args, **changes)  # type: ignore[type-var]


def _from_json(found: Any, hint: Any) -> Any:
    """Return a stored value as its field has it: a path, a unit of coordinates, several values."""
    kinds = [kind for kind in (hint, *get_args(hint)) if isinstance(kind, type) and issubclass(kind, (Path, Enum))]
    if isinstance(found, str) and kinds:
        return kinds[0](found)
    return tuple(found) if isinstance(found, list) else found


def own_command() -> str:
    """Return this process's command line as it can be pasted into a shell."""
    program, *words = sys.argv
    start = program.split(" ") if program.startswith("focus ") else [Path(sys.executable).name, program]
    return shlex.join([*start, *words])


def quiet_libraries() -> None:
    """Keep other packages' start-up chatter out of an experiment's output; their errors still show."""
    import ray  # noqa: F401 - here: a command line is read without it; it sets levels of its own when it is imported
    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # Tune's other output prints a table even where it is told not to
    # Workers of a Ray that this process starts get what it gets; Ray's own 15 starves them beside any other job.
    os.environ.setdefault("RAY_worker_niceness", "0")
    for name in ("ray.rllib", "ray.train", "ray.tune"):
        logging.getLogger(name).setLevel(logging.ERROR)
