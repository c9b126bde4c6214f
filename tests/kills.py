"""Work that is killed at each of its calls of the file system in turn.

A killed process makes no further call: its handlers and cleaning-up do nothing any more. That is played in one process
by an audit hook of Python's, which raises from the n-th call on. A hook cannot be removed, so it lives in a child.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

CALLS = frozenset(
    {
        "open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.listdir", "os.scandir", "os.link",
        "os.symlink", "os.chmod", "shutil.rmtree", "shutil.move", "shutil.copyfile", "ctypes.dlsym",
    }
)  # fmt: skip
"""Events that come before a call; `ctypes.dlsym` comes before an exchange of names."""


class Killed(BaseException):
    """What a call of a dead process raises."""


class _Hook:
    """Counts calls down to the last one, and raises from there on."""

    def __init__(self) -> None:
        self.num_left: int | None = None
        self.empties_file = False
        sys.addaudithook(self)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.num_left is None or event not in CALLS:
            return
        self.num_left -= 1
        if self.num_left > 0:
            return
        if self.num_left == 0 and self.empties_file:
            if event != "open" or not (arguments[2] or 0) & os.O_TRUNC:
                self.empties_file = False  # nothing to empty, and so no other place to die than that before the call
            else:
                self.num_left = None
                with open(arguments[0], "wb"):
                    self.num_left = 0
        raise Killed(event)


def in_a_child(test: Callable[..., None]) -> Callable[..., None]:
    """Run a test in a child of this process, which shares nothing with it from then on."""

    @functools.wraps(test)
    def run(*arguments: Any, **options: Any) -> None:
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                test(*arguments, **options)
                code = 0
            except BaseException:
                os.write(writer, traceback.format_exc().encode()[-60_000:])
            finally:
                os._exit(code)
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            text = pipe.read().decode()
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, text

    return run


@contextlib.contextmanager
def held_by_another(folder: Path) -> Iterator[int]:
    """Another process holds a folder, and is killed at the end, also of a test that fails; yields its number."""
    from focus_agents.runs.lock import hold_folder  # here: tests of the environment use this module too

    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            hold_folder(folder)
            os.write(writer, b"held")
            signal.pause()
        finally:
            os._exit(0)
    os.close(writer)
    assert os.read(reader, 10) == b"held"
    os.close(reader)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def kill_at_each_call(work: Callable[[], object]) -> Iterator[str]:
    """Do the work again and again, killed at its first call of the file system, at its second, and so on to its end.

    A call that empties a file to write it anew is a place to die twice: before it and after it. Only for tests that run
    `in_a_child`.

    Yields:
        After each death, where it was; the caller looks at what is left, and puts everything as it was.
    """
    hook = _Hook()
    number = 0
    is_done = False
    while not is_done:
        number += 1
        for empties_file in (False, True):
            hook.empties_file, hook.num_left = empties_file, number
            try:
                work()
                is_done = True
            except Killed as death:
                place = f"call {number}, {death}"
            finally:
                hook.num_left = None
            if is_done:
                break
            if hook.empties_file == empties_file:
                yield f"{place}{', file emptied' if empties_file else ''}"
