"""Write files and folders so that they are complete or unchanged, whenever their writer is killed.

A new file or folder gets its name only when it is on the disk. Until then it is beside its place, under a name that
begins with a dot and holds `-unfinished`, locked by its writer. The lock ends with the process, so the next writer of
the same file or folder recognizes the remains of a killed writer, and removes them.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import shutil
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

from focus_env.errors import StorageError
from focus_env.regular_files import require_possible

if sys.platform != "win32":  # there, two writers at a time are not kept apart
    import fcntl

UNFINISHED = "-unfinished"
_FRESH, _OLD = "fresh", "old"
_RENAME_EXCHANGE, _AT_FDCWD = 2, -100
_FULL_TEXTS = ("No space left on device", "os error 28", "Disk quota exceeded", "os error 122")
"""Texts about a full disk in the errors of libraries that raise their own."""
_FAILED_TEXTS = (*_FULL_TEXTS, "PytorchStreamWriter failed", "unexpected pos", "os error", "IoError")
"""Texts in these errors where a file cannot be written for whatever reason."""
_LEAST_FREE = 2**20
"""With less room than this, an error in writing is one of a full disk; that of torch says nothing of it."""


@contextlib.contextmanager
def fresh_file(path: Path) -> Iterator[Path]:
    """Write a file at once: what is written to the path that this yields gets the name `path` at the end.

    An error on the way leaves `path` as it was. The yielded path has the ending of `path`, and the file there is empty.
    A pipe or a device, such as /dev/stdout, is written to as it is.

    Raises:
        StorageError: If the file cannot be written, because the disk is full or for another reason.
    """
    path = _behind_links(path)
    if path.exists() and not path.is_file():
        yield path
        return
    with named_errors(path), _scratch_file(path) as scratch:
        mode = scratch.stat().st_mode
        yield scratch
        _open_up(scratch, mode)
        _sync(scratch)
        os.replace(scratch, path)
        _sync(path.parent)


@contextlib.contextmanager
def fresh_folder(path: Path) -> Iterator[Path]:
    """Write a folder at once: what is written to the folder that this yields gets the name `path` at the end.

    A reader finds the older folder or the new one, whole, at each moment; see `find_folder` for old file systems.

    Yields:
        A path where no folder is yet; the caller makes it.

    Raises:
        StorageError: If the folder cannot be written, or another process is writing it.
    """
    path = _behind_links(path)
    with named_errors(path), _scratch_folder(path) as scratch:
        try:
            yield scratch / _FRESH
            mode = scratch.stat().st_mode
            for part in (*(scratch / _FRESH).rglob("*"), scratch / _FRESH):
                _open_up(part, mode)
                _sync(part)
            _swap_in(scratch, path)
            _sync(path.parent)
        finally:
            _put_back(scratch, path)
            shutil.rmtree(scratch, ignore_errors=True)


def _behind_links(path: Path) -> Path:
    """Return the place to which a path leads that is a link, so that the link stays."""
    if not path.is_symlink():
        return path
    with named_errors(path):
        require_possible(path)
    return Path(os.path.realpath(path))


def find_folder(path: Path) -> Path:
    """Return where a folder of `fresh_folder` lies: at its path, or where a killed writer has put it.

    The latter happens only on file systems that cannot exchange two names at once, such as NFS.
    """
    old = _folder_name(path) / _OLD
    return old if not path.exists() and old.exists() else path


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8 at once, as `fresh_file` does."""
    with fresh_file(path) as scratch:
        scratch.write_text(text, encoding="utf-8")


def append_text(path: Path, text: str, *, is_synced: bool = False) -> None:
    """Append whole lines to a text file in UTF-8; a last line that a killed writer has cut is removed first.

    Args:
        path: The file; made if it is not there.
        text: One line or several.
        is_synced: Return only when they are on the disk.

    Raises:
        StorageError: If the file cannot be written; then it holds what it held before.
    """
    with named_errors(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        with os.fdopen(descriptor, "a+b", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 1))
            if size > 0 and file.read(1) != b"\n":
                file.seek(0)
                size = file.read(size).rfind(b"\n") + 1
                file.truncate(size)
            rest = memoryview(text.encode("utf-8"))
            try:
                while rest:
                    rest = rest[file.write(rest) :]
                if is_synced:
                    os.fsync(file.fileno())
            except OSError:
                file.truncate(size)
                raise


def remove_unfinished(folder: Path, pattern: str) -> None:
    """Remove what killed writers of files or folders have left, and leave what living ones are writing.

    Args:
        folder: Where the files or folders are.
        pattern: Of their names, such as `step_*`.
    """
    for scratch in folder.glob(f".{pattern}{UNFINISHED}*"):
        _remove_dead(scratch)


# ---- scratch names and their locks


def _folder_name(path: Path) -> Path:
    """Return the place where a folder is written."""
    return path.parent / f".{path.name}{UNFINISHED}"


def _file_name(path: Path, number: int) -> Path:
    """Return the place where a file is written, with its ending, by which libraries choose a format, and a number."""
    return path.parent / f".{path.stem}{UNFINISHED}{f'-{number}' if number else ''}{path.suffix}"


@contextlib.contextmanager
def _scratch_file(path: Path) -> Iterator[Path]:
    """Yield an empty file of this process alone; what dead processes left goes, and at an error this file too."""
    for number in itertools.count():
        scratch = _file_name(path, number)
        try:  # a signal may raise at each line, in `_lock` too
            with _lock(scratch, os.O_RDWR | os.O_CREAT) as is_free:
                if not is_free:
                    continue
                os.truncate(scratch, 0)
                for later in itertools.count(number + 1):
                    if not _file_name(path, later).exists():
                        break
                    _remove_dead(_file_name(path, later))
                yield scratch
                return
        except BaseException:
            _remove_dead(scratch)
            raise


@contextlib.contextmanager
def _scratch_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder; an older folder that a dead process has moved there is put back."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = _folder_name(path)
    scratch.mkdir(exist_ok=True)
    with _lock(scratch, os.O_RDONLY) as is_free:
        if not is_free:
            raise StorageError(f"{path}: another process is writing it; wait until that is done")
        _put_back(scratch, path)
        for part in scratch.iterdir():
            _remove(part)
        yield scratch


@contextlib.contextmanager
def _lock(path: Path, flags: int) -> Iterator[bool]:
    """Yield whether a path is this process's alone, which it stays until the end of the context or of the process."""
    if sys.platform == "win32":
        if flags & os.O_CREAT:
            path.touch()
        yield True
        return
    descriptor = os.open(path, flags, 0o666)
    try:
        is_free = True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            is_free = False
        except OSError:  # a file system without locks
            pass
        # Between opening and locking its last owner may have renamed or removed it.
        is_there = path.exists() and os.path.samestat(os.fstat(descriptor), os.stat(path))
        yield is_free and is_there
    finally:
        os.close(descriptor)


def _remove_dead(scratch: Path) -> None:
    """Remove a scratch file or folder if nobody holds it."""
    with contextlib.suppress(OSError), _lock(scratch, os.O_RDONLY) as is_free:
        if is_free:
            _remove(scratch)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


# ---- names


def _swap_in(scratch: Path, path: Path) -> None:
    """Give the fresh folder its name; the older one, if there is one, ends up in the scratch folder."""
    if path.exists() and not _exchange(scratch / _FRESH, path):
        os.rename(path, scratch / _OLD)
    if (scratch / _OLD).exists() or not path.exists():
        os.rename(scratch / _FRESH, path)


def _put_back(scratch: Path, path: Path) -> None:
    """Undo the first of the two renames of `_swap_in` if the second has not happened."""
    if not path.exists() and (scratch / _OLD).exists():
        os.rename(scratch / _OLD, path)


def _exchange(first: Path, second: Path) -> bool:
    """Exchange two names at once; False where the system or the file system cannot."""
    if not sys.platform.startswith("linux"):
        return False
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    if renameat2 is None:
        return False
    names = (os.fsencode(first.absolute()), os.fsencode(second.absolute()))
    return bool(renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0)


def _sync(path: Path) -> None:
    """Wait until a file, or what a folder says of its files, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        if path.is_file():
            raise
        # Some file systems cannot sync folders.
    finally:
        os.close(descriptor)


def _open_up(path: Path, mode: int) -> None:
    """Let those read a file who may read what this process makes; some libraries' files are their owner's alone.

    Args:
        path: What a library may have made; folders are left as they are.
        mode: Of a file or folder that was made as usual, by the umask.
    """
    found = path.stat().st_mode
    if path.is_file() and (wanted := found | mode & 0o666) != found:
        path.chmod(stat.S_IMODE(wanted))


# ---- errors


@contextlib.contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Say which file an error of the disk is about, and how much room there is."""
    try:
        yield
    except StorageError:
        raise
    except Exception as error:
        free = _free_bytes(path)
        is_full = any(text in str(error) for text in _FULL_TEXTS)
        is_full |= isinstance(error, OSError | RuntimeError) and free < _LEAST_FREE
        if not (isinstance(error, OSError) or is_full or any(text in str(error) for text in _FAILED_TEXTS)):
            raise
        advice = "make room" if is_full else "mend the cause"
        cause = f"could not be written ({error}); {free / 2**20:,.0f} MiB are free there"
        told = StorageError(f"{path}: {cause}. It is as it was before; {advice}, and repeat the command")
        told.cause, told.reason = f"{path} {cause}", f"{error}; {free / 2**20:,.0f} MiB are free there"
        raise told from error


def reason_of(error: Exception) -> str:
    """Return why something could not be written, without advice for a command that has ended by it."""
    return getattr(error, "reason", "") or str(error)


def _free_bytes(path: Path) -> float:
    """Room on the disk of a path; infinite if that cannot be told."""
    for folder in path.absolute().parents:
        with contextlib.suppress(OSError):
            return shutil.disk_usage(folder).free
    return float("inf")
