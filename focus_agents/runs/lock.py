"""One process at a time writes to a folder."""

from __future__ import annotations

import contextlib
import datetime
import os
import socket
import sys
from pathlib import Path

if sys.platform != "win32":
    import fcntl

LOCK_FILE = ".lock"
_held: dict[Path, tuple[int, int]] = {}
"""By folder, the process that holds it, and the descriptor that must stay open for it."""


def hold_folder(folder: Path, *, setting: str = "name") -> None:
    """Make a folder, if it is not there, and make it this process's alone until the process ends, however it ends.

    The lock goes with the process: what a killed one has left blocks nobody, and processes that are forked do not
    inherit it. Where the file system has no locks, nothing is kept apart.

    Args:
        folder: The folder.
        setting: By which a user may choose another one, for the message.

    A folder that was deleted and made again is another folder.

    Raises:
        ValueError: If another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    folder = Path(os.path.realpath(folder))
    if sys.platform == "win32" or _is_held(folder):
        return
    descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        owner = os.pread(descriptor, 200, 0).decode("utf-8", errors="replace").strip()
        os.close(descriptor)
        raise ValueError(
            f"folder {folder}: another process is at work in it ({owner or 'unknown'}); wait until it is done, end it, "
            f"or choose another `{setting}`"
        ) from error
    except OSError:  # a file system without locks
        pass
    _held[folder] = (os.getpid(), descriptor)
    now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    with contextlib.suppress(OSError):  # it is for people only
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()} since {now}\n".encode(), 0)


def _is_held(folder: Path) -> bool:
    """Whether this process holds the lock file that lies in a folder now."""
    owner, descriptor = _held.get(folder, (0, 0))
    if owner != os.getpid():
        return False
    with contextlib.suppress(OSError):
        if os.path.samestat(os.fstat(descriptor), os.stat(folder / LOCK_FILE)):
            return True
    del _held[folder]
    os.close(descriptor)
    return False
