"""A process that is killed at each of its calls of the file system in turn."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

CALLS = frozenset(
    {
        "open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.listdir", "os.scandir", "os.link",
        "os.symlink", "shutil.rmtree", "shutil.move", "shutil.copyfile", "ctypes.dlsym",
    }
)  # fmt: skip
"""Events of Python's audit hooks, which come before the call; `ctypes.dlsym` comes before an exchange of names."""
_KILLED = 77


def kill_at_each_call(work: Callable[[], object]) -> Iterator[str]:
    """Do the work in children that are killed at their first call of the file system, at their second, and so on.

    A call that empties a file to write it anew is a place to die twice: before it and after it.

    Yields:
        After each death, where it was; the caller looks at what is left, and puts everything as it was.
    """
    number = 0
    while True:
        number += 1
        for is_after in (False, True):
            code = _run(work, number, is_after=is_after)
            if code == 0:
                if not is_after:
                    return
                break
            assert code == _KILLED, f"call {number}: expected the child to be killed, got exit code {code}"
            yield f"call {number}{' (file emptied)' if is_after else ''}"


def _run(work: Callable[[], object], number: int, *, is_after: bool) -> int:
    """Exit code of a child that dies at a call; with `is_after` it dies only if that call empties a file."""
    pid = os.fork()
    if pid == 0:
        left = number

        def strike(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal left
            if event not in CALLS:
                return
            left -= 1
            if left != 0:
                return
            if not is_after:
                os._exit(_KILLED)
            if event != "open" or not (arguments[2] or 0) & os.O_TRUNC:
                os._exit(0)
            Path(arguments[0]).write_bytes(b"")
            os._exit(_KILLED)

        sys.addaudithook(strike)
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
