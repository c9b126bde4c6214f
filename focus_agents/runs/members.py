"""Files of whole gzip members, each with its number and its length in its header.

Any program reads such a file as gzip. The extra field of a member's header has the member's number, such as an
iteration, and its length. So a reader can skip from header to header without inflating other members, and the length
reveals a last member that a killed writer has cut.

Source: RFC 1952, section 2.3.1.1 (extra fields), as BGZF uses them.
"""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

from focus_env.files import named_errors

_HEADER = struct.Struct("<2s2sI2sH2sHQI")
"""Magic; method and flags; time; level and system; length of the extra field; name and length of the subfield; and in
it the number and the member's length."""
_MAGIC, _SUBFIELD = b"\x1f\x8b", b"fo"
_DEFLATE_WITH_EXTRA = b"\x08\x04"
_PAYLOAD = 12
LEVEL = 6
"""Of compression."""


@dataclass(frozen=True, slots=True)
class Member:
    """The place of a member.

    Attributes:
        number: What it belongs to.
        start: Its first byte in the file.
        length: Its bytes, the header included.
    """

    number: int
    start: int
    length: int


def append_member(path: Path, number: int, data: bytes) -> None:
    """Append a member; one that a killed writer has cut is removed first.

    Args:
        path: The file; made if it is not there.
        number: What the data belongs to, 0 or more.
        data: Anything.

    Raises:
        StorageError: If the file cannot be written; then it holds what it held before.
    """
    packed = zlib.compressobj(LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    body = packed.compress(data) + packed.flush() + struct.pack("<II", zlib.crc32(data), len(data) & 0xFFFFFFFF)
    header = _HEADER.pack(
        _MAGIC, _DEFLATE_WITH_EXTRA, 0, b"\x00\xff", _PAYLOAD + 4, _SUBFIELD, _PAYLOAD, number, _HEADER.size + len(body)
    )
    end = _end_of(path)
    with named_errors(path), path.open("r+b" if path.exists() else "w+b", buffering=0) as file:
        file.truncate(end)
        file.seek(end)
        rest = memoryview(header + body)
        try:
            while rest:
                rest = rest[file.write(rest) :]
        except OSError:
            file.truncate(end)
            raise
        _appended.clear()
        _appended[path] = _state(os.fstat(file.fileno()))


_appended: dict[Path, tuple[int, int, int]] = {}
"""The file that this process has appended to last, as it was then; its members are whole up to its end."""


def _end_of(path: Path) -> int:
    """Return where the whole members of a file end; it is read unless it is as this process has left it."""
    if path.exists() and _appended.get(path) == _state(status := path.stat()):
        return status.st_size
    whole = list_members(path)
    return whole[-1].start + whole[-1].length if whole else 0


def _state(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_ino, status.st_size, status.st_mtime_ns


def list_members(path: Path) -> list[Member]:
    """Return the whole members of a file, from its front to the first that is cut or is none; none without a file."""
    if not path.exists():
        return []
    members: list[Member] = []
    data, start = path.read_bytes(), 0  # one read is faster than one for each header
    while start + _HEADER.size <= len(data):
        magic, method, _, _, extra, name, payload, number, length = _HEADER.unpack_from(data, start)
        is_ours = (magic, method, name) == (_MAGIC, _DEFLATE_WITH_EXTRA, _SUBFIELD)
        if not is_ours or (extra, payload) != (_PAYLOAD + 4, _PAYLOAD) or not 0 < length <= len(data) - start:
            break
        members.append(Member(number, start, length))
        start += length
    return members


def read_member(path: Path, member: Member) -> bytes:
    """Inflate a member.

    Raises:
        OSError: If its bytes are damaged.
    """
    with path.open("rb") as file:
        file.seek(member.start)
        try:
            return gzip.decompress(file.read(member.length))
        except (zlib.error, EOFError) as error:
            raise OSError(f"{path}: damaged from byte {member.start} on ({error})") from error


def cut_members(path: Path, largest: int) -> None:
    """Drop the members whose number is above `largest`, where numbers rise through the file."""
    members = list_members(path)
    kept = [member for member in members if member.number <= largest]
    end = kept[-1].start + kept[-1].length if kept else 0
    with named_errors(path), path.open("r+b") as file:
        file.truncate(end)
