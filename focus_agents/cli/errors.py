"""What a command prints of an error: the library's message, with the command's own flags in it."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import sys
from collections.abc import Iterator
from typing import get_type_hints

from rich.console import Console

from focus_agents.errors import RunInterrupted
from focus_env.errors import FocusError


@contextlib.contextmanager
def user_errors(arguments: type) -> Iterator[None]:
    """Around the checks of a command: a wrong argument ends it with its message and exit code 2, no traceback.

    Args:
        arguments: The command's dataclass, whose settings the message shows as flags.
    """
    try:
        yield
    except (ValueError, OSError, FocusError) as error:
        print(as_flags(f"error: {error}", arguments), file=sys.stderr)
        raise SystemExit(2) from error


@contextlib.contextmanager
def work_errors(arguments: type, console: Console, *errors: type[FocusError]) -> Iterator[None]:
    """Around the work of a command: an interruption or an expected error ends it with its message, no traceback.

    Args:
        arguments: As in `user_errors`.
        console: Where the message goes.
        errors: The errors that are expected; they end the command with exit code 1. Others pass.
    """

    def show(message: str, style: str) -> None:
        console.print(as_flags(message, arguments), style=style, highlight=False, markup=False, soft_wrap=True)

    try:
        yield
    except RunInterrupted as interruption:
        show(str(interruption), "yellow")
        raise SystemExit(interruption.exit_code) from None
    except errors as error:
        show(f"error: {error}", "red")
        raise SystemExit(1) from None


def print_warning(message: str) -> None:
    """Print a warning beside a command's output."""
    print(f"warning: {message}", file=sys.stderr)


def as_flags(message: str, arguments: type) -> str:
    """Write a message of the library for the user of a command: its settings become flags.

    Args:
        message: A text with settings in backticks, as in "lower `batch_size`", or one before the first colon, as in
            "error: lr: expected more than 0".
        arguments: The command's dataclass. Other words in backticks stay as they are.

    Returns:
        The text as in "lower --batch-size".
    """
    names = setting_names(arguments)

    def flag(found: re.Match[str]) -> str:
        name = found[1] or found[2]
        return f"--{name.replace('_', '-')}" if name in names else found[0]

    return re.sub(r"`(\w+)`|(?<=^error: )(\w+)(?=: )", flag, message)


def setting_names(arguments: type) -> frozenset[str]:
    """Return the names of a dataclass's fields, and of those of the dataclasses among them."""
    types = get_type_hints(arguments)
    fields = [field.name for field in dataclasses.fields(arguments)]
    nested = (setting_names(types[name]) for name in fields if dataclasses.is_dataclass(types[name]))
    return frozenset(fields).union(*nested)
