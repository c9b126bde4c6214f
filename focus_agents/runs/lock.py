"""One process at a time writes to a folder."""

from __future__ import annotations

import contextlib
import datetime
import os
import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

if sys.platform != "win32":
    import fcntl

LOCK_FILE = ".lock"
_held: dict[Path, tuple[int, int]] = {}
"""By folder, the process that holds it, and the descriptor that must stay open for it."""


def hold_folder(folder: Path, *, setting: str | None = "name") -> None:
    """Make a folder, if it is not there, and make it this process's alone until the process ends, however it ends.

    The lock goes with the process: what a killed one has left blocks nobody, and processes that are forked do not
    inherit it. Where the file system has no locks, nothing is kept apart.

    Args:
        folder: The folder.
        setting: By which a user may choose another one, for the message; None: it is this one or none.

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
        advice = "wait until it ends, or stop it"
        if setting is not None:
            advice = f"wait until it is done, end it, or choose another `{setting}`"
        raise ValueError(
            f"folder {folder}: another process is at work in it ({owner or 'unknown'}); {advice}"
        ) from error
    except OSError:  # a file system without locks
        pass
    _held[folder] = (os.getpid(), descriptor)
    now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    with contextlib.suppress(OSError):  # it is for people only
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()} since {now}\n".encode(), 0)


@contextlib.contextmanager
def claimed_folder(folder: Path, *, setting: str | None = "name") -> Iterator[None]:
    """Hold a folder from before the checks of a work on; if they fail, all is as if nobody had come.

    So a folder that another process holds, or that cannot be made, is refused before anything takes its time.

    Args:
        folder: The folder, made if it is not there.
        setting: As of `hold_folder`.

    Raises:
        ValueError: If another process holds it.
        OSError: If it cannot be made.
    """
    ours = [path for path in (folder / LOCK_FILE, folder, *folder.parents) if not os.path.lexists(path)]
    try:
        hold_folder(folder, setting=setting)
        yield
    except BaseException:
        is_held = _is_held(real := Path(os.path.realpath(folder)))
        _remove(ours if is_held else ours[1:])  # the lock's file may be another process's by now
        if is_held:
            os.close(_held.pop(real)[1])
        raise


def _remove(paths: Sequence[Path]) -> None:
    """Remove a file of a lock and folders, inner ones first, as far as nothing else is in them."""
    for path in paths:
        with contextlib.suppress(OSError):
            if path.is_dir():
                path.rmdir()
            else:
                path.unlink()


def last_holder(folder: Path) -> int | None:
    """Return the process of this machine that has held a folder last, whether or not it goes on; None: nobody knows."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        words = (folder / LOCK_FILE).read_text(encoding="utf-8").split()
        if words[3] == socket.gethostname():
            return int(words[1])
    return None


def _is_held(folder: Path) -> bool:
    """Return whether this process holds the lock file that lies in a folder now."""
    owner, descriptor = _held.get(folder, (0, 0))
    if owner != os.getpid():
        return False
    with contextlib.suppress(OSError):
        if os.path.samestat(os.fstat(descriptor), os.stat(folder / LOCK_FILE)):
            return True
    del _held[folder]
    os.close(descriptor)
    return False
