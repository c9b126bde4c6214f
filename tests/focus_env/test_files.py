"""Writing at once: old or new at each moment of a kill, no scratch after the next write, errors with their file."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from focus_env import files
from focus_env.errors import StorageError
from focus_env.files import (
    append_text,
    find_folder,
    fresh_file,
    fresh_folder,
    named_errors,
    reason_of,
    remove_unfinished,
    write_text,
)
from tests.kills import in_a_child, kill_at_each_call


def write_folder(path: Path, content: str) -> None:
    with fresh_folder(path) as fresh:
        fresh.mkdir()
        (fresh / "weights").write_text(content)
        (fresh / "part").mkdir()
        (fresh / "part" / "tokenizer").write_text(content)


def read_folder(path: Path) -> set[str]:
    """What the files of a folder hold; one text if they belong together."""
    found = find_folder(path)
    return {(found / name).read_text() for name in ("weights", "part/tokenizer")}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fail_in(write: Callable[[Path], Any], path: Path, error: BaseException) -> None:
    """An error while something is half-written."""
    with write(path) as scratch:
        if write is fresh_folder:
            scratch.mkdir()
        (scratch / "half" if write is fresh_folder else scratch).write_text("half")
        raise error


def no_exchange(*_: Any) -> bool:
    """What file systems such as NFS have."""
    return False


@pytest.mark.parametrize("has_old", [True, False])
@pytest.mark.parametrize("can_exchange", [True, False])
@in_a_child
def test_a_folder_is_old_or_new_whenever_its_writer_is_killed(
    tmp_path: Path, has_old: bool, can_exchange: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not can_exchange:
        monkeypatch.setattr(files, "_exchange", no_exchange)
    found, num_kills = set(), 0
    path = tmp_path / "policy"
    if has_old:
        write_folder(path, "old")
    for where in kill_at_each_call(lambda: write_folder(path, "new")):
        num_kills += 1
        if has_old or find_folder(path).exists():
            (content,) = read_folder(path)
            assert content in ("old", "new"), where
            found.add(content)
        write_folder(path, "next")
        assert read_folder(path) == {"next"}, where
        assert names(tmp_path) == ["policy"], where
        shutil.rmtree(path)
        if has_old:
            write_folder(path, "old")
    assert read_folder(path) == {"new"}
    assert num_kills > 20
    assert found == ({"old", "new"} if has_old else {"new"})


@in_a_child
def test_a_file_is_old_or_new_whenever_its_writer_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    path.write_text("old")
    found = set()
    for where in kill_at_each_call(lambda: write_text(path, "new")):
        found.add(path.read_text())
        assert path.read_text() in ("old", "new"), where
        write_text(path, "old")
        assert names(tmp_path) == ["summary.json"], where
    assert found == {"old", "new"}


def test_what_other_killed_writers_left_is_removed_and_the_living_are_let_be(tmp_path: Path) -> None:
    with fresh_file(tmp_path / "a.txt") as living:
        for number in (1, 2):
            (tmp_path / f".a-unfinished-{number}.txt").write_text("of a dead one")
        write_text(tmp_path / "a.txt", "second")
        assert names(tmp_path) == [".a-unfinished.txt", "a.txt"]
        living.write_text("first")
    assert (tmp_path / "a.txt").read_text() == "first"
    with fresh_folder(tmp_path / "step_1") as living:
        living.mkdir()
        (tmp_path / ".step_2-unfinished/fresh").mkdir(parents=True)
        remove_unfinished(tmp_path, "step_*")
        assert names(tmp_path) == [".step_1-unfinished", "a.txt"]
        with pytest.raises(StorageError, match=r"step_1: another process is writing it; wait until"):
            write_folder(tmp_path / "step_1", "second")
    assert names(tmp_path) == ["a.txt", "step_1"]


def interrupted_at(number: int, work: Callable[[], object]) -> bool:
    """Do work, with Ctrl-C before its n-th line of the module; whether it came that far."""
    num_left = number

    def trace(frame: Any, event: str, argument: Any) -> Any:
        nonlocal num_left
        if frame.f_code.co_filename != files.__file__:
            return None
        if event == "line":
            num_left -= 1
            if num_left == 0:
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


def test_a_signal_at_any_line_leaves_nothing_half_written(tmp_path: Path) -> None:
    path, number = tmp_path / "config.json", 1
    while interrupted_at(number, lambda: write_text(path, "new")):
        assert names(tmp_path) in ([], ["config.json"]), number
        assert not path.exists() or path.read_text() == "new", number
        path.unlink(missing_ok=True)
        number += 1
    assert number > 30
    assert path.read_text() == "new"


def test_an_error_leaves_everything_as_it_was(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "old")
    write_folder(tmp_path / "b", "old")
    for error in (KeyboardInterrupt("stop"), ValueError("wrong"), OSError("disk full")):
        for write, name in ((fresh_file, "a.txt"), (fresh_folder, "b")):
            with pytest.raises(type(error), match=str(error)):
                fail_in(write, tmp_path / name, error)
    assert names(tmp_path) == ["a.txt", "b"]
    assert (tmp_path / "a.txt").read_text() == "old"
    assert read_folder(tmp_path / "b") == {"old"}


def test_a_link_stays_one(tmp_path: Path) -> None:
    for name in ("real.txt", "link.txt", "real", "link"):
        (tmp_path / name).symlink_to(tmp_path / name.replace("link", "real")) if "link" in name else None
    write_text(tmp_path / "link.txt", "new")
    (tmp_path / "real").mkdir()
    write_folder(tmp_path / "link", "new")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real.txt").read_text() == "new"
    assert (tmp_path / "link").is_symlink()
    assert read_folder(tmp_path / "real") == {"new"}


def test_a_device_is_written_to_as_it_is() -> None:
    write_text(Path("/dev/null"), "nothing")
    assert not Path("/dev/null").is_file()


def full(error: Callable[[], Exception]) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise error()

    return fail


@pytest.mark.parametrize(
    ("error", "free", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), 0, "0 MiB are free there.*make room"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), 2**30, "1,024 MiB are free there.*make room"),
        (Exception("Error while serializing: I/O error: No space left on device (os error 28)"), 0, "make room"),
        (RuntimeError("PytorchStreamWriter failed"), 5, "PytorchStreamWriter failed.*make room"),
        (PermissionError(errno.EACCES, "Permission denied"), 2**30, "Permission denied.*mend the cause"),
    ],
)
def test_errors_of_the_disk_name_the_file_and_the_room(
    error: Exception, free: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_free_bytes", lambda path: free)
    for write in (fresh_file, fresh_folder):
        with pytest.raises(StorageError, match=rf"{tmp_path}/it: could not be written .*{message}"):
            fail_in(write, tmp_path / "it", error)
    assert names(tmp_path) == []


def test_an_error_that_is_not_the_disks_passes(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"^shapes differ$"):
        fail_in(fresh_folder, tmp_path / "it", RuntimeError("shapes differ"))


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"nowhere/a.txt: could not be written .*No such file"):
        write_text(tmp_path / "nowhere/a.txt", "text")


class TestAppend:
    """Lines of a file that grows."""

    @pytest.mark.parametrize(
        ("before", "after"),
        [
            (None, "c\n"),
            ("", "c\n"),
            ("a\nb\n", "a\nb\nc\n"),
            ("a\nb", "a\nc\n"),
            ("half", "c\n"),
            ("a\n\0\0", "a\nc\n"),
            ("\u00e4\n\u00e4", "\u00e4\nc\n"),
        ],
    )
    def test_a_line_that_was_cut_goes(self, before: str | None, after: str, tmp_path: Path) -> None:
        if before is not None:
            (tmp_path / "lines").write_text(before, encoding="utf-8")
        append_text(tmp_path / "lines", "c\n")
        assert (tmp_path / "lines").read_text(encoding="utf-8") == after

    def test_on_a_full_disk_the_file_is_as_before(self, tmp_path: Path) -> None:
        """In a process that may not write files of more than 100 bytes."""
        code = (
            "import resource, signal, sys; from pathlib import Path\n"
            "from focus_env.errors import StorageError; from focus_env.files import append_text\n"
            "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
            "append_text(Path(sys.argv[1]), 'a' * 59 + chr(10))\n"
            "try: append_text(Path(sys.argv[1]), 'b' * 59 + chr(10))\n"
            "except StorageError as error: print(error)\n"
        )
        found = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "lines")], capture_output=True, text=True, check=True
        )
        assert "lines: could not be written ([Errno 27] File too large)" in found.stdout
        assert (tmp_path / "lines").read_text() == "a" * 59 + "\n"


def test_a_lock_of_a_file_system_without_locks_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", full(lambda: OSError(errno.ENOLCK, "No locks available")))
    write_text(tmp_path / "a.txt", "new")
    write_folder(tmp_path / "b", "new")
    assert names(tmp_path) == ["a.txt", "b"]


def test_without_locks_it_writes_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files.sys, "platform", "win32")
    write_text(tmp_path / "a.txt", "new")
    write_folder(tmp_path / "b", "new")
    assert (names(tmp_path), os.path.getsize(tmp_path / "a.txt")) == (["a.txt", "b"], 3)


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600), (0o002, 0o664)])
def test_files_are_as_readable_as_those_beside_them(umask: int, mode: int, tmp_path: Path) -> None:
    """Whatever a library makes of them: some write a file of their owner's alone and give it the name."""

    def write_as_a_library_does(path: Path) -> None:
        path.with_suffix(".tmp").write_text("weights")
        path.with_suffix(".tmp").chmod(0o600)
        path.with_suffix(".tmp").rename(path)

    before = os.umask(umask)
    try:
        with fresh_folder(tmp_path / "policy") as fresh:
            (fresh / "part").mkdir(parents=True)
            write_as_a_library_does(fresh / "model")
            write_as_a_library_does(fresh / "part/model")
            (fresh / "run.sh").write_text("")
            (fresh / "run.sh").chmod(0o755)
        with fresh_file(tmp_path / "alone") as scratch:
            write_as_a_library_does(scratch)
    finally:
        os.umask(before)
    found = {name: (tmp_path / name).stat().st_mode & 0o777 for name in ("policy/model", "policy/part/model", "alone")}
    assert found == dict.fromkeys(found, mode)
    assert (tmp_path / "policy/run.sh").stat().st_mode & 0o100


def test_what_stopped_a_writer_is_said_without_advice_to_a_command(tmp_path: Path) -> None:
    """For a training that goes on without the file."""
    with pytest.raises(StorageError) as caught, named_errors(tmp_path / "a"):
        raise OSError(errno.EFBIG, "File too large")
    assert reason_of(caught.value).startswith("[Errno 27] File too large; ")
    assert reason_of(caught.value).endswith(" MiB are free there")
    assert reason_of(ValueError("no")) == "no"


@pytest.mark.parametrize(
    "text",
    [
        "[enforce fail at inline_container.cc:664] . unexpected pos 704 vs 598",
        "PytorchStreamWriter failed writing file data/3: file write failed",
        "Error while serializing: I/O error: File too large (os error 27)",
    ],
)
def test_libraries_errors_are_those_of_the_disk_where_there_is_room(text: str, tmp_path: Path) -> None:
    """Such as a limit on the size of files, or a quota."""
    with pytest.raises(StorageError, match="could not be written"), named_errors(tmp_path / "a"):
        raise RuntimeError(text)
