"""Files of gzip members: what a kill leaves, what other programs read, and what is dropped."""

from __future__ import annotations

import gzip
import os
import random
import resource
import signal
from pathlib import Path

import pytest

from focus_agents.runs import members
from focus_agents.runs.members import append_member, cut_members, list_members, read_member
from focus_env.errors import StorageError

TEXTS = {3: b"one\n", 4: b"", 2**40: b"three\n" * 1000}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    for number, text in TEXTS.items():
        append_member(tmp_path / "file.gz", number, text)
    return tmp_path / "file.gz"


def contents(file: Path) -> dict[int, bytes]:
    return {member.number: read_member(file, member) for member in list_members(file)}


def test_every_cut_leaves_the_whole_members_before_it(file: Path) -> None:
    whole = file.read_bytes()
    ends = [member.start + member.length for member in list_members(file)]
    assert ends[-1] == len(whole)
    for size in range(len(whole)):
        file.write_bytes(whole[:size])
        assert len(list_members(file)) == sum(end <= size for end in ends)


@pytest.mark.parametrize(
    "rest", [b"\x1f", b"\x1f\x8b\x08\x04" + bytes(40), b"{}\n" * 50, gzip.compress(b"x" * 99, mtime=0)]
)
def test_what_is_no_member_goes_with_the_next_write(file: Path, rest: bytes) -> None:
    with file.open("ab") as opened:
        opened.write(rest)
    assert contents(file) == TEXTS
    append_member(file, 2**41, b"new")
    assert contents(file) == {**TEXTS, 2**41: b"new"}


def test_a_file_is_not_read_again_for_each_member(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless someone else has changed it."""
    num_read = 0

    def count(path: Path) -> list[members.Member]:
        nonlocal num_read
        num_read += 1
        return list_members(path)

    monkeypatch.setattr(members, "list_members", count)
    append_member(file, 2**41, b"new")
    assert num_read == 0
    assert contents(file) == {**TEXTS, 2**41: b"new"}
    os.truncate(file, file.stat().st_size - 1)
    append_member(file, 2**42, b"newer")
    assert num_read == 1
    assert contents(file) == {**TEXTS, 2**42: b"newer"}
    content = file.read_bytes()
    append_member(file.with_name("other.gz"), 1, b"")
    file.unlink()
    file.write_bytes(content)  # of the same size
    append_member(file, 2**43, b"newest")
    assert num_read == 3


def test_other_programs_read_it(file: Path) -> None:
    assert gzip.decompress(file.read_bytes()) == b"".join(TEXTS.values())


@pytest.mark.parametrize(("largest", "left"), [(0, []), (3, [3]), (99, [3, 4]), (2**60, [*TEXTS])])
def test_what_is_above_a_number_is_cut_off(file: Path, largest: int, left: list[int]) -> None:
    cut_members(file, largest)
    assert [*contents(file)] == left


def test_damage_is_named(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-20] ^= 0xFF
    file.write_bytes(data)
    with pytest.raises(OSError, match=r"file\.gz: damaged from byte|CRC check failed"):
        contents(file)


def test_no_file_has_no_members(tmp_path: Path) -> None:
    assert list_members(tmp_path / "none.gz") == []


def test_a_full_disk_leaves_the_file_as_it_was(file: Path) -> None:
    before = file.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # then such a write raises
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 20, limits[1]))
    try:
        with pytest.raises(StorageError, match=r"could not be written"):
            append_member(file, 9, random.Random(0).randbytes(500))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert file.read_bytes() == before
