"""End a command's process after its last output: soon, and quietly whatever signals come."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

from focus_agents.runs.output import is_live

SHOW_CURSOR = "\x1b[?25h"
"""Takes back what a spinner or a bar has asked of the terminal."""
FAILED = 1
SECONDS_UNTIL_AGAIN = 0.1
"""After which a signal is sent again, most likely to another place of the program."""


class Terminated(KeyboardInterrupt):
    """SIGTERM as an exception, as Ctrl-C is one."""

    signal_number = signal.SIGTERM


def number_of(stop: KeyboardInterrupt) -> signal.Signals:
    """Return the signal that has raised an exception."""
    return signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT


@contextlib.contextmanager
def termination_as_exception() -> Iterator[None]:
    """Let SIGTERM raise `Terminated` in the main thread; elsewhere Python admits no handlers, and nothing changes.

    Where Python drops what a signal has raised, the signal comes again; see `_getting_through`.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        with _getting_through():
            yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _getting_through() -> Iterator[None]:
    """Within it, a signal comes again until what it raises ends the work.

    Python calls finalizers, hooks of a fork, and callbacks of weak references without a caller who could be told of an
    error. A signal that comes just then raises there, and would be lost; the start of Ray forks for seconds.
    """
    before, process = sys.unraisablehook, os.getpid()

    def send_again(dropped: sys.UnraisableHookArgs) -> None:
        if not issubclass(dropped.exc_type, KeyboardInterrupt | SystemExit):
            before(dropped)
        elif os.getpid() == process:  # and not a child that is about to become another program
            is_term = issubclass(dropped.exc_type, Terminated | SystemExit)  # the latter is how Ray answers SIGTERM
            number = signal.SIGTERM if is_term else signal.SIGINT
            threading.Timer(SECONDS_UNTIL_AGAIN, os.kill, (process, number)).start()

    sys.unraisablehook = send_again
    try:
        yield
    finally:
        sys.unraisablehook = before


def end_at_once(code: int, *, restores_terminal: bool = False) -> None:
    """End this process without what is left to do, with everything printed.

    Args:
        code: Its exit code.
        restores_terminal: A spinner or a bar may be on the terminal.
    """
    if restores_terminal and is_live(sys.stdout):
        sys.stdout.write(SHOW_CURSOR)
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    os._exit(code)


def end_quietly() -> None:
    """Let nothing be said any more: for a command that is done, whose process has only to end.

    A signal would else interrupt what libraries do when Python ends, and show their tracebacks. Ray that does not run
    is not shut down once more, for which it would import a part of itself.
    """
    if worker := sys.modules.get("ray._private.worker"):
        from focus_agents.cli.ray_compat import forget_shutdown

        forget_shutdown(worker)
    atexit.register(_obey_at_once)  # the last one that is registered is called first


def _obey_at_once() -> None:
    """Let signals end this process without a word."""
    if threading.current_thread() is not threading.main_thread():
        return

    def stop(number: int, frame: FrameType | None) -> None:
        os._exit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)


def is_program() -> bool:
    """Return whether this process is `focus` itself, by its script or by `python -m`, and no other that calls it."""
    file = Path(getattr(sys.modules.get("__main__"), "__file__", None) or "")
    return file.name == "focus" or (file.parent.name, file.name) == ("focus_agents", "__main__.py")


def run_to_the_end(command: Callable[[], None]) -> None:
    """Run a command and end the process with its exit code.

    What is registered for the end is done. Python would then take apart each module, which with torch and Ray takes a
    second, and half a minute on a busy machine, while nothing is left to be done.
    """
    code: int | str | None = FAILED
    try:
        command()
        code = 0
    except SystemExit as stop:
        code = stop.code
    except KeyboardInterrupt:  # of the first moments, when nothing was begun
        code = 128 + signal.SIGINT
    except BaseException:
        traceback.print_exc()
    _obey_at_once()
    if isinstance(code, str):
        print(code, file=sys.stderr)
    atexit._run_exitfuncs()
    end_at_once(FAILED if isinstance(code, str) else code or 0)
