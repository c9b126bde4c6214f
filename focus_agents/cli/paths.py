"""Paths on a command line: the user's home in place of a tilde, and a check whether a file can be there."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

from focus_agents.settings import Settings
from focus_env.regular_files import require_possible


def expand_paths(value: Any) -> Any:
    """Return arguments in which each path, or text that is one, has the user's home in place of its tilde.

    A shell does so for `--flag ~/x` and not for `--flag=~/x`; every path of every command comes through here.
    """
    if isinstance(value, Settings):
        named = {field.name: expand_paths(getattr(value, field.name)) for field in dataclasses.fields(value)}  # type: ignore[arg-type]
        return dataclasses.replace(value, **named)  # type: ignore[type-var]
    if isinstance(value, tuple):
        return tuple(map(expand_paths, value))
    if isinstance(value, str | Path) and str(value).startswith("~"):
        return type(value)(os.path.expanduser(value))
    return value


def check_paths(value: Any, name: str = "") -> None:
    """Refuse paths at which nothing can lie, before any work.

    Args:
        value: Arguments with paths in them, after `expand_paths`.
        name: The setting, of a single value.

    Raises:
        ValueError: If a path leads into a loop of links, below a file, or to a folder that may not be looked into; has
            too long a name; or begins with the home of a user that there is not.
    """
    if isinstance(value, Settings):
        for field in dataclasses.fields(value):  # type: ignore[arg-type]
            check_paths(getattr(value, field.name), field.name)
    elif isinstance(value, tuple):
        for part in value:
            check_paths(part, name)
    elif isinstance(value, Path):
        try:
            require_possible(value)
            reason = "there is no such user" if str(value).startswith("~") else ""
        except OSError as error:
            reason = error.strerror or str(error)
        if reason:
            raise ValueError(f"{name}: expected a path that can be used, got {str(value)!r}: {reason}")
