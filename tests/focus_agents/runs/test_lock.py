"""Two processes, one folder."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

from focus_agents.runs.folder import RunDirectory
from focus_agents.runs.lock import LOCK_FILE, claimed_folder, hold_folder, last_holder
from tests.kills import held_by_another, in_a_child


def warn(message: str) -> None:
    raise AssertionError(message)


@in_a_child
def test_the_second_driver_is_refused_by_name_until_the_first_is_dead(tmp_path: Path) -> None:
    """Whether it starts the run, or goes on with it; a killed one leaves its lock's file, and blocks nobody."""
    run = RunDirectory.create(tmp_path / "run", {"seed": 3})
    with held_by_another(run.path) as pid:
        refusal = (
            rf"run: another process is at work in it \(process {pid} on .*\); wait until it is done, end it, or choose"
        )
        for is_resumed in (True, False):  # nothing is trained yet, so that the folder alone would not be refused
            with pytest.raises(ValueError, match=refusal):
                RunDirectory.open(run.path, {}, is_resumed=is_resumed, warn=warn)
        run.log({"iteration": 1})
        with pytest.raises(FileExistsError, match=r"holds a run already"):
            RunDirectory.open(run.path, {}, is_resumed=False, warn=warn)
    assert (tmp_path / "run" / LOCK_FILE).exists()
    assert RunDirectory.open(tmp_path / "run", {}, is_resumed=True, warn=warn).config() == {"seed": 3}
    RunDirectory.open(tmp_path / "run", {}, is_resumed=True, warn=warn)  # the same process may


@in_a_child
def test_two_starts_at_once_make_one_run(tmp_path: Path) -> None:
    with held_by_another(tmp_path / "run"):
        with pytest.raises(ValueError, match="another process is at work in it"):
            RunDirectory.open(tmp_path / "run", {"seed": 4}, is_resumed=False, warn=warn)
        assert not (tmp_path / "run/config.json").exists()


@in_a_child
def test_of_starts_at_one_moment_one_wins(tmp_path: Path) -> None:
    """Eight times three processes at a barrier; the winner holds the folder until the others have their answer."""
    for attempt in range(8):
        (start, starter), (end, ender), (results, result) = os.pipe(), os.pipe(), os.pipe()
        children = []
        for seed in range(3):
            if (pid := os.fork()) == 0:
                os.close(starter)
                os.close(ender)
                os.read(start, 1)
                try:
                    RunDirectory.open(tmp_path / f"{attempt}", {"seed": seed}, is_resumed=False, warn=warn)
                    os.write(result, b"won")
                    os.read(end, 1)
                except (ValueError, FileExistsError):
                    os.write(result, b"not")
                finally:
                    os._exit(0)
            children.append(pid)
        os.close(starter)
        told = sorted(os.read(results, 3) for _ in children)
        os.close(ender)
        for pid in children:
            os.waitpid(pid, 0)
        assert told == [b"not", b"not", b"won"]
        assert RunDirectory(tmp_path / f"{attempt}").config()["seed"] in range(3)


@in_a_child
def test_a_process_that_is_forked_does_not_keep_the_folder(tmp_path: Path) -> None:
    """As the workers of a data loader do, which outlive a killed driver by seconds."""
    reader, writer = os.pipe()
    holder = os.fork()
    if holder == 0:
        hold_folder(tmp_path)
        if (worker := os.fork()) == 0:
            signal.pause()
        os.write(writer, worker.to_bytes(8, "little"))
        signal.pause()
    worker = int.from_bytes(os.read(reader, 8), "little")
    os.kill(holder, signal.SIGKILL)
    os.waitpid(holder, 0)
    try:
        hold_folder(tmp_path)
    finally:
        os.kill(worker, signal.SIGKILL)


@in_a_child
def test_a_folder_that_was_deleted_and_made_again_is_held_again(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    hold_folder(folder)
    shutil.rmtree(folder)
    with held_by_another(folder), pytest.raises(ValueError, match="another process is at work in it"):
        hold_folder(folder)
    hold_folder(folder)
    descriptors = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
    hold_folder(folder)
    if descriptors:
        assert len(os.listdir("/proc/self/fd")) == descriptors
    pid = os.fork()
    if pid == 0:
        try:
            hold_folder(folder)
        except ValueError:
            os._exit(0)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@in_a_child
def test_checks_that_fail_leave_nothing_of_a_claim(tmp_path: Path) -> None:
    """Neither folders that were made for it nor a lock, and what was there stays."""
    (tmp_path / "there").mkdir()

    def fail(folder: Path, name: str) -> None:
        (folder / name).touch()
        raise ValueError("a check")

    for folder in (tmp_path / "a/b/c", tmp_path / "there"):
        with pytest.raises(ValueError, match="a check"), claimed_folder(folder):
            fail(folder, LOCK_FILE)
    assert [path.name for path in tmp_path.rglob("*")] == ["there"]
    with pytest.raises(ValueError, match="a check"), claimed_folder(tmp_path / "there"):
        fail(tmp_path / "there", "config.json")
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["config.json"]


@in_a_child
def test_a_claim_that_is_refused_leaves_the_others_lock(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with held_by_another(folder) as pid:
        assert last_holder(folder) == pid
        advice = r"process \d+ on .*\); wait until it ends, or stop it$"
        with pytest.raises(ValueError, match=advice), claimed_folder(folder, setting=None):
            pytest.fail("it is held")
        assert last_holder(folder) == pid
    with claimed_folder(folder):
        assert last_holder(folder) == os.getpid()
    assert last_holder(folder) == os.getpid(), "it is held on, until the process ends"
    assert last_holder(tmp_path) is None


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="the system has no folder in which nobody can make one")
def test_a_folder_that_cannot_be_made_is_refused_by_its_path() -> None:
    with pytest.raises(OSError, match="/proc/x"), claimed_folder(Path("/proc/x/run")):
        pytest.fail("there is no such folder")
