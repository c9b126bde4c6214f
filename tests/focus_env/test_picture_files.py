"""Picture files before they are decoded: their turn, their end, and that they are files."""

from __future__ import annotations

import os
import socket
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from focus_env import picture_files
from focus_env.errors import DatasetError
from focus_env.images import check_picture, decode, picture_wh, read_picture
from focus_env.regular_files import open_regular
from focus_env.types import Frame
from tests.focus_env.pictures import Pixels, apart, as_file, detailed_picture

STORED = np.array(detailed_picture((40, 30)).resize((40, 30)))
SHOWN: dict[int, Pixels] = {
    # By EXIF's own words for where row 0 and column 0 of the file belong.
    1: STORED,
    2: STORED[:, ::-1],
    3: STORED[::-1, ::-1],
    4: STORED[::-1],
    5: STORED.transpose(1, 0, 2),
    6: np.rot90(STORED, -1),
    7: np.rot90(STORED, 2).transpose(1, 0, 2),
    8: np.rot90(STORED, 1),
}


def _exif(orientation: object) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _turned(kind: str, orientation: int) -> bytes:
    """The stored pixels in a file that says how they are to be turned."""
    picture = Image.fromarray(STORED)
    if kind == "PNG with EXIF behind the pixels":
        sound = as_file(picture, "PNG")
        return sound[:-12] + _chunk(b"eXIf", _exif(orientation).removeprefix(b"Exif\0\0")) + sound[-12:]
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 98, "subsampling": 0}}.get(kind, {})
    return as_file(picture, kind, exif=_exif(orientation), **options)


class TestOrientation:
    """EXIF orientation, in every format that has it."""

    @pytest.mark.parametrize("orientation", SHOWN)
    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "PNG with EXIF behind the pixels"])
    def test_a_picture_is_upright(self, tmp_path: Path, kind: str, orientation: int) -> None:
        path = tmp_path / "a.jpg"  # whatever it is
        path.write_bytes(_turned(kind, orientation))
        shown = SHOWN[orientation]
        size = shown.shape[1], shown.shape[0]
        assert picture_wh(path) == size
        check_picture(path, size)
        tolerance = 2 if kind == "JPEG" else 0
        for pixels in (
            decode(path, file_wh=size, image_wh=size, name="a"),
            read_picture(path),
            read_picture(path.read_bytes()),
            Frame("a", size, path).image(),
        ):
            assert pixels.shape == shown.shape
            assert apart(pixels, shown) <= tolerance
        with Image.open(path) as picture:
            assert apart(read_picture(picture), shown) <= tolerance
        half = size[0] // 2, size[1] // 2
        assert apart(Frame("a", size, path).shrunk(half[0] * half[1]).image(), Image.fromarray(shown).resize(half)) < 4

    def test_a_box_is_judged_by_what_is_shown(self, tmp_path: Path) -> None:
        path = tmp_path / "a.jpg"
        path.write_bytes(_turned("JPEG", 6))
        match = (
            r"expected 40 x 30 pixels, got 30 x 40, which its EXIF orientation may have turned: boxes are in pixels of"
        )
        with pytest.raises(DatasetError, match=rf"a\.jpg: {match}"):
            check_picture(path, (40, 30))
        with pytest.raises(DatasetError, match=rf"picture 'a': {match}.*leave it out, with `on_bad` 'skip'"):
            decode(path, file_wh=(40, 30), image_wh=(40, 30), name="a")

    @pytest.mark.parametrize("orientation", [0, 9, 65535])
    def test_one_that_does_not_exist_is_none(self, orientation: int) -> None:
        assert apart(read_picture(_turned("PNG", orientation)), STORED) == 0

    @pytest.mark.parametrize(
        "exif", [b"", b"Exif\0\0", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"Exif\0\0" + b"\xff" * 40, b"?"]
    )
    def test_a_damaged_one_is_none(self, exif: bytes) -> None:
        for kind in ("JPEG", "PNG", "WEBP"):
            assert read_picture(as_file(Image.fromarray(STORED), kind, exif=exif)).shape == STORED.shape


class TestEnds:
    """Files that were copied to their end, whatever follows, and files that were not."""

    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
    @pytest.mark.parametrize("name", ["a.jpg", "a.png", "A.JPEG", "a"])
    def test_by_what_it_is_and_not_by_its_name(self, tmp_path: Path, kind: str, name: str) -> None:
        sound = as_file(Image.fromarray(STORED), kind)
        path = tmp_path / name
        path.write_bytes(sound)
        check_picture(path, (40, 30))
        path.write_bytes(sound[:-40])
        match = (
            r"expected a picture that can be read: " if kind == "WEBP" else rf"expected a whole {kind}, got one without"
        )
        with pytest.raises(DatasetError, match=rf"{name}: {match}.*, or leave it out, with `on_bad` 'skip'"):
            check_picture(path, (40, 30))

    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
    def test_a_film_behind_it(self, tmp_path: Path, kind: str) -> None:
        path = tmp_path / "a.jpg"
        path.write_bytes(as_file(Image.fromarray(STORED), kind) + b"\0film" * 10_000)
        check_picture(path, (40, 30))
        assert read_picture(path).shape == STORED.shape

    @pytest.mark.parametrize("options", [{"progressive": True}, {"restart_marker_rows": 1}, {"exif": _exif(1)}])
    def test_a_cut_jpeg_has_no_end_though_a_small_picture_in_it_has(
        self, tmp_path: Path, options: dict[str, object]
    ) -> None:
        small = as_file(Image.fromarray(STORED).resize((8, 6)))
        sound = as_file(Image.fromarray(STORED).resize((400, 300)), comment=small, **options)
        path = tmp_path / "a.jpg"
        path.write_bytes(sound + bytes(5000))
        check_picture(path, (400, 300))
        path.write_bytes(sound[:-2000] + bytes(5000))
        with pytest.raises(DatasetError, match="without an end"):
            check_picture(path, (400, 300))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_hostile_tail_takes_no_time(tmp_path: Path, kind: str) -> None:
    sound = as_file(Image.fromarray(STORED), kind)
    path = tmp_path / "a.jpg"
    # Marks without a name before what only looks like pixels; and millions of parts of no length.
    tail = b"\xff" * 2_000_000 + bytes(2000) if kind == "JPEG" else bytes(12_000_000)
    path.write_bytes(sound[:-30] + tail)
    with pytest.raises(DatasetError, match=r"a\.jpg: expected a whole"):
        check_picture(path, (40, 30))


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # the names of sockets are short
    try:
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.chdir(here)


NO_FILES = [
    ("a pipe", _pipe, r"a pipe \(FIFO\), no regular file"),
    ("a socket", _socket, r"a socket, no regular file"),
    ("a device without end", lambda path: path.symlink_to("/dev/zero"), r"a device, no regular file"),
    ("a device without anything", lambda path: path.symlink_to("/dev/null"), r"a device, no regular file"),
    ("a directory", lambda path: path.mkdir(), r"a directory, no regular file"),
]


@pytest.mark.parametrize(("case", "make", "match"), NO_FILES, ids=[case for case, *_ in NO_FILES])
def test_what_is_no_regular_file_is_named_at_once(tmp_path: Path, case: str, make: object, match: str) -> None:
    path = tmp_path / "a.jpg"
    make(path)  # type: ignore[operator]
    for look in (
        picture_wh,
        read_picture,
        lambda path: check_picture(path, (4, 4)),
        lambda path: decode(path, file_wh=(4, 4), image_wh=(4, 4), name="a"),
        lambda path: Frame("a", (4, 4), path).image(),
    ):
        with pytest.raises(DatasetError, match=match):
            look(path)
    with pytest.raises(OSError, match=match):
        open_regular(path)


def test_a_file_beyond_all_pictures_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(as_file(Image.fromarray(STORED), "PNG"))
    monkeypatch.setattr(picture_files, "LARGEST_FILE", 100)
    for look in (read_picture, lambda path: read_picture(path.read_bytes())):
        with pytest.raises(DatasetError, match="expected a picture of at most 100 bytes, got"):
            look(path)


def test_a_picture_in_memory_has_the_same_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("focus_env.images.LARGEST_PICTURE", 100)
    with pytest.raises(DatasetError, match="picture: expected at most 100 pixels, got 40 x 30"):
        read_picture(Image.fromarray(STORED))
