"""Opening files that others have named: regular ones alone, so that nothing waits or reads for ever.

A pipe waits for a writer, a device gives bytes without end or does something when it is opened.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a pipe (FIFO)"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def open_regular(path: str | Path) -> BinaryIO:
    """Open a file for reading, unless it is something else than a regular file.

    Args:
        path: The file, or a link to it.

    Raises:
        OSError: If there is none, it cannot be opened, or it is a directory, a pipe, a socket or a device; the message
            says which.
    """
    require_regular(os.stat(path), path)
    return open(path, "rb", opener=_open)


def _open(path: str, flags: int) -> int:
    # Since `os.stat` the file may have become another: a pipe must not wait even then.
    descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
    try:
        require_regular(os.fstat(descriptor), path)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def require_regular(status: os.stat_result, path: str | Path) -> None:
    """Refuse what is no regular file.

    Args:
        status: What `os.stat` says of it.
        path: Names it in the error.

    Raises:
        OSError: If it is a directory, a pipe, a socket or a device.
    """
    if stat.S_ISREG(status.st_mode):
        return
    kind = next((name for is_kind, name in KINDS if is_kind(status.st_mode)), "no file of a known kind")
    error = IsADirectoryError if stat.S_ISDIR(status.st_mode) else OSError
    raise error(errno.EISDIR if error is IsADirectoryError else errno.EINVAL, f"{kind}, no regular file", str(path))


def require_possible(path: str | Path) -> None:
    """Refuse a path at which nothing is and nothing can be made.

    Args:
        path: The path of a file or folder, which need not be there.

    Raises:
        OSError: If the path leads into a loop of links or below a file, has too long a name or a zero byte in it, or
            leads through a folder that may not be looked into; `strerror` says which.
    """
    try:
        os.stat(path)
    except FileNotFoundError:
        return
    except ValueError as error:
        raise OSError(errno.EINVAL, str(error), str(path)) from None
