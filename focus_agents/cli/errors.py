"""Print an error of a command: the library's message, with the command's own flags in it."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar, cast, get_args, get_type_hints

import tyro
from rich.console import Console

from focus_agents.cli.ending import end_at_once, number_of, termination_as_exception
from focus_agents.errors import RunInterrupted
from focus_agents.runs.output import guard_output
from focus_agents.runs.terminal import PlainConsole
from focus_env.errors import FocusError, StorageError

T = TypeVar("T")

PACKAGES = frozenset({"focus_agents", "focus_env"})
LIBRARY_NAMES = {"root": "data_root"}
"""Names of arguments of functions, with those of the settings that commands have for them."""


class CommandConsole(PlainConsole):
    """A console that writes the settings in what is printed as the command's flags.

    Args:
        arguments: The command's dataclass; see `as_flags`.
        options: Of `PlainConsole`.
    """

    def __init__(self, arguments: type, **options: Any) -> None:
        super().__init__(**options)
        self._arguments = arguments

    def print(self, *objects: Any, **options: Any) -> None:
        """Print as `PlainConsole` does, texts with flags in them."""
        super().print(*(as_flags(o, self._arguments) if isinstance(o, str) else o for o in objects), **options)


@contextlib.contextmanager
def warnings_in_words(arguments: type) -> Iterator[None]:
    """Within the context, a warning of these packages is a sentence, without the line of code that gave it.

    Args:
        arguments: The command's dataclass; see `as_flags`.
    """
    plain = warnings.formatwarning

    def in_words(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
    ) -> str:
        is_own = category in (UserWarning, FutureWarning) and not PACKAGES.isdisjoint(Path(filename).parts)
        text = f"warning: {as_flags(str(message), arguments)}\n"
        return text if is_own else plain(message, category, filename, lineno, line)

    warnings.formatwarning = in_words
    try:
        yield
    finally:
        warnings.formatwarning = plain


def make_console(*, width: int | None = None, stderr: bool = False, arguments: type | None = None) -> Console:
    """Return a console that prints every text as it is: no markup, no colour by chance, no line broken or cut.

    Args:
        width: In characters; None: the terminal's.
        stderr: Write to the standard error in place of the standard output.
        arguments: The command's dataclass, where what the library prints is to name its flags.
    """
    options: dict[str, Any] = {"width": width, "stderr": stderr}
    return PlainConsole(**options) if arguments is None else CommandConsole(arguments, **options)


@contextlib.contextmanager
def user_errors(arguments: type) -> Iterator[None]:
    """Around the checks of a command: a wrong argument ends it with its message and exit code 2, no traceback.

    A signal ends it with a sentence too, and 128 + its number.

    Args:
        arguments: The command's dataclass, whose settings the message shows as flags.
    """
    guard_output()
    try:
        with termination_as_exception():
            yield
    except KeyboardInterrupt as stop:
        number = number_of(stop)
        print(f"stopped by {number.name}; nothing was started yet", file=sys.stderr)
        raise SystemExit(128 + number) from None
    except (ValueError, OSError, FocusError) as error:
        print(as_flags(f"error: {error_in_words(error)}", arguments), file=sys.stderr)
        raise SystemExit(2) from error


def error_in_words(error: Exception) -> str:
    """Return the message of an error; one of the system says what is wrong with which path, and not what to do."""
    if isinstance(error, FocusError) or not isinstance(error, OSError) or not error.filename or not error.strerror:
        return str(error)
    return f"{error.filename}: expected a path that can be used, got: {error.strerror}; correct the path"


@contextlib.contextmanager
def work_errors(
    arguments: type,
    console: Console,
    *errors: type[FocusError],
    advice: Callable[[], str] = lambda: "the same command goes on with what is there",
) -> Iterator[None]:
    """Around the work of a command: an interruption or an expected error ends it with its message, no traceback.

    Args:
        arguments: As in `user_errors`.
        console: Where the message goes.
        errors: The errors that are expected; they end the command with exit code 1, as those of the system do: a full
            disk, a lost connection. Others pass.
        advice: Called where a signal stops the work at once, with exit code 128 + its number, and where something
            cannot be written; says how to go on.
    """

    def show(message: str, style: str) -> None:
        console.print(as_flags(message, arguments), style=style, highlight=False, markup=False, soft_wrap=True)

    try:
        with termination_as_exception():
            yield
    except RunInterrupted as interruption:
        show(str(interruption), "yellow")
        raise SystemExit(interruption.exit_code) from None
    except KeyboardInterrupt as stop:
        number = number_of(stop)
        show(f"stopped by {number.name}; {advice()}", "yellow")
        raise SystemExit(128 + number) from None
    except StorageError as error:
        show(f"error: {error.cause or error}; make room or mend the cause; {advice()}", "red")
        raise SystemExit(1) from None
    except errors as error:
        show(f"error: {error}", "red")
        raise SystemExit(1) from None
    except MemoryError as error:
        show(f"error: {getattr(error, 'cause', error)}; {advice()}", "red")
        raise SystemExit(1) from None
    except OSError as error:
        cause = getattr(error, "cause", error)  # of a process that Ray runs, without its traceback
        show(f"error: {type(cause).__name__}: {cause}; mend the cause; {advice()}", "red")
        raise SystemExit(1) from None


def in_a_thread(work: Callable[[], T]) -> T:
    """Do work in a thread, so that signals reach this one whatever handlers a library would set for them.

    Ray Train answers Ctrl-C by an exit without a word, unless it runs outside of the main thread.
    """
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return outcome.result()


@contextlib.contextmanager
def ending_at_once(note: str = "") -> Iterator[None]:
    """Let a signal end this process at once, without what is left to do; for tidying up.

    Where the command has said its last word already, and is on its way out, it ends without another.

    Args:
        note: Said then, such as what is kept.
    """
    has_ended = isinstance(sys.exception(), SystemExit)
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        if not has_ended:
            said = "; ".join(filter(None, [f"stopped by {signal.Signals(number).name}", note]))
            print(said, file=sys.stderr, flush=True)
        end_at_once(128 + number, restores_terminal=True)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def print_warning(message: str) -> None:
    """Print a warning beside a command's output."""
    print(f"warning: {message}", file=sys.stderr)


def warn(message: str | None, arguments: type) -> None:
    """Print a warning of the library, if there is one.

    Args:
        message: Such as `PolicySpec.other_prompt` gives; None: there is nothing to say.
        arguments: The command's dataclass; see `as_flags`.
    """
    if message is not None:
        print_warning(as_flags(message, arguments))


def as_flags(message: str, arguments: type) -> str:
    """Write a message of the library for the user of a command: its settings become flags.

    Args:
        message: A text with settings in backticks, as in "lower `batch_size`", or one before the first colon, as in
            "error: lr: expected more than 0", or before "must", as in "error: shots must be at least 1".
        arguments: The command's dataclass. Other words in backticks stay as they are, but for those of `LIBRARY_NAMES`.

    Returns:
        The text as in "lower --batch-size", or "error: --shots: shots must be at least 1".
    """
    flags = flag_names(arguments)

    def flag(found: re.Match[str]) -> str:
        name = found[1] or found[2] or found[3]
        name = LIBRARY_NAMES.get(name, name) if found[1] and name not in flags else name
        if name not in flags:
            return found[0]
        as_flag = f"--{flags[name].replace('_', '-')}" if flags[name] else name
        return f"{as_flag}: {name}" if found[3] else as_flag

    return re.sub(r"`(\w+)`|(?<=^error: )(\w+)(?=: )|(?<=^error: )(\w+)(?= must )", flag, message)


def setting_names(arguments: type) -> frozenset[str]:
    """Return the names of a dataclass's fields, and of those of the dataclasses among them."""
    return frozenset(flag_names(arguments))


(_GIVEN_BY_PLACE,) = get_args(tyro.conf.Positional[str])[1:]


def flag_names(arguments: type) -> dict[str, str]:
    """Return by name of a setting that of its flag, both with underscores.

    They are the same but where a setting's annotation has a name of its own: `source_format` is `--from` of
    `focus convert`, since Python takes `from` for itself. A setting that is given by its place has none, "".

    Args:
        arguments: A command's dataclass; the fields of dataclasses among its fields are settings too.
    """
    hints = get_type_hints(arguments, include_extras=True)
    found: dict[str, str] = {}
    for field in dataclasses.fields(arguments):
        hint = hints[field.name]
        extras = getattr(hint, "__metadata__", ())
        plain = get_args(hint)[0] if extras else hint
        if dataclasses.is_dataclass(plain):
            found |= flag_names(cast("type", plain))
        own = next((extra.name for extra in extras if getattr(extra, "name", None)), field.name)
        found[field.name] = "" if _GIVEN_BY_PLACE in extras else own.replace("-", "_")
    return found
